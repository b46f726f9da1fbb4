"""Shading of camera images: textures, illumination and atmosphere, compiled pixel by pixel.

Light is linear RGB; 1 is a white surface with the sun at normal incidence.
"""

from __future__ import annotations

import numpy as np

from multimodal_perception.kernels import njit
from multimodal_perception.simulation.world.materials import Material, MaterialProperty, Texture

TEXTURE = int(MaterialProperty.TEXTURE)
SPECULAR, EMISSION = int(MaterialProperty.SPECULAR), int(MaterialProperty.EMISSION)
PAINT, CLOTH = int(Texture.PAINT), int(Texture.CLOTH)
ASPHALT, SLABS, GRASS = int(Texture.ASPHALT), int(Texture.SLABS), int(Texture.GRASS)
BRICK, FACADE, LEAVES = int(Texture.BRICK), int(Texture.FACADE), int(Texture.LEAVES)
CONCRETE, BARK, SHEET = int(Texture.CONCRETE), int(Texture.BARK), int(Texture.SHEET)
LAMP = int(Material.STREET_LAMP)


@njit(nogil=True, inline="never")
def hash_noise(x, y, z):  # type: ignore[no-untyped-def]
    """Uniform pseudo-random value in [0, 1) of a unit grid cell, by an integer hash (Wellons 2018)."""
    h = np.uint32(np.int64(np.floor(x)) * 73856093 & 0xFFFFFFFF)
    h ^= np.uint32(np.int64(np.floor(y)) * 19349663 & 0xFFFFFFFF)
    h ^= np.uint32(np.int64(np.floor(z)) * 83492791 & 0xFFFFFFFF)
    h = np.uint32((h ^ (h >> np.uint32(16))) * np.uint32(0x7FEB352D))
    h = np.uint32((h ^ (h >> np.uint32(15))) * np.uint32(0x846CA68B))
    h = np.uint32(h ^ (h >> np.uint32(16)))
    return float(h) / 4294967296.0


@njit(nogil=True)
def value_noise(x, y):  # type: ignore[no-untyped-def]
    """Value in [0, 1) that varies smoothly over distances of 1 (value noise, Perlin 1985)."""
    i, j = np.floor(x), np.floor(y)
    u, v = x - i, y - j
    u, v = u * u * (3 - 2 * u), v * v * (3 - 2 * v)
    low = hash_noise(i, j, 0.0) * (1 - u) + hash_noise(i + 1, j, 0.0) * u
    high = hash_noise(i, j + 1, 0.0) * (1 - u) + hash_noise(i + 1, j + 1, 0.0) * u
    return low * (1 - v) + high * v


@njit(nogil=True)
def window_part(along, z):  # type: ignore[no-untyped-def]
    """Part of a facade at a position along it and a height z: 0 wall, 1 window frame, 2 window pane."""
    u = along / 2.4 - np.floor(along / 2.4)
    v = (z - 0.3) / 3.0 - np.floor((z - 0.3) / 3.0)
    if z < 0.5 or not (0.22 < u < 0.78 and 0.24 < v < 0.76):
        return 0
    if 0.26 < u < 0.74 and 0.27 < v < 0.73 and abs(u - 0.5) > 0.015:
        return 2
    return 1


@njit(nogil=True)
def albedo(row, object_colours, x, y, z, face, distance, colour):  # type: ignore[no-untyped-def]
    """Albedo of a surface point, written to colour (3,); returns whether it is a window pane.

    row: row of MATERIAL_TABLE. object_colours: (7,) row of Scene.objects. x, y, z: the point in odom.
    face: (3,) normal of the face. distance: from the camera, metres.
    """
    texture = int(row[TEXTURE])
    along = x if abs(face[1]) > abs(face[0]) else y  # coordinate along a vertical face
    if texture == FACADE:
        return facade_albedo(object_colours, along, z, face, colour)
    if texture == PAINT:
        for k in range(3):
            colour[k] = object_colours[k]
    elif texture == CLOTH:
        for k in range(3):
            colour[k] = object_colours[3 + k]
    else:
        factor = texture_factor(texture, x, y, z, along, distance)
        for k in range(3):
            colour[k] = row[k] * factor
    return False


@njit(nogil=True)
def facade_albedo(object_colours, along, z, face, colour):  # type: ignore[no-untyped-def]
    """Albedo of a facade with windows, written to colour (3,); returns whether it is a window pane."""
    for k in range(3):
        colour[k] = object_colours[3 + k] * (0.92 + 0.12 * value_noise(along * 0.7, z * 0.5))
    if abs(face[2]) < 0.5:
        part = window_part(along, z)
        if part == 2:
            for k in range(3):
                colour[k] = 0.06 + 0.05 * hash_noise(along / 2.4, z / 3.0, 5.0)
            return True
        if part == 1:
            for k in range(3):
                colour[k] = 0.75
    return False


@njit(nogil=True)
def texture_factor(texture, x, y, z, along, distance):  # type: ignore[no-untyped-def]
    """Factor of a texture on the material's colour at a point x, y, z in odom, 1 for plain surfaces."""
    # Fine detail fades out at 35 m, where it would cause aliasing.
    detail = max(0.0, 1.0 - distance / 35.0)
    factor = 1.0
    if texture == ASPHALT:
        factor = 0.82 + 0.30 * value_noise(x * 0.35, y * 0.8)
        factor += detail * 0.30 * (hash_noise(x * 45, y * 45, 1.0) - 0.5)
    elif texture == SLABS:
        u, v = x / 0.6 - np.floor(x / 0.6), y / 0.6 - np.floor(y / 0.6)
        factor = 0.88 + 0.24 * hash_noise(x / 0.6, y / 0.6, 2.0)
        if (u < 0.04 or v < 0.04) and distance < 45:
            factor *= 1.0 - 0.35 * max(0.0, 1 - distance / 45.0)
    elif texture == GRASS:
        factor = 0.7 + 0.4 * value_noise(x * 0.6, y * 0.6)
        factor += 0.4 * detail * hash_noise(x * 22, y * 22, 3.0)
    elif texture == LEAVES:
        factor = 0.5 + 0.55 * hash_noise(x * 7, y * 7, z * 7)
        factor += 0.4 * (value_noise(x * 2 + z, y * 2) - 0.3)
    elif texture == BRICK:
        course = np.floor(z / 0.24)
        u = along / 0.5 + 0.5 * (course % 2)
        factor = 0.85 + 0.30 * hash_noise(u, course, 4.0) * min(1.0, 0.3 + detail)
        joint = u - np.floor(u) < 0.06 or z / 0.24 - course < 0.10
        if joint and distance < 35:
            factor += 0.25 * detail
    elif texture == CONCRETE:
        factor = 0.85 + 0.25 * value_noise(x * 0.9 + z, y * 0.9 + z)
    elif texture == BARK:
        factor = 0.75 + 0.5 * hash_noise(x * 12, y * 12, z * 3)
    elif texture == SHEET:
        factor = 0.85 + 0.15 * np.sin(along * 2 * np.pi / 0.25) * detail
    return factor


@njit(nogil=True)
def sky_light(dx, dy, dz, sun_direction, zenith, horizon, glare, light):  # type: ignore[no-untyped-def]
    """Light of the sky in a direction, with clouds, sun disc and halo, written to light (3,)."""
    up = max(dz, 0.0) ** 0.5
    for k in range(3):
        light[k] = horizon[k] + (zenith[k] - horizon[k]) * up
    cloud = value_noise(3.0 * dx / (dz + 0.25) + 20.0, 3.0 * dy / (dz + 0.25))
    cloud += 0.5 * value_noise(7.0 * dx / (dz + 0.25) + 9.0, 7.0 * dy / (dz + 0.25))
    fraction = min(max((cloud - 0.75) * 1.4, 0.0), 0.7) * min(max(dz * 5.0, 0.0), 1.0)
    for k in range(3):
        light[k] += fraction * (0.95 * (horizon[0] + horizon[1] + horizon[2]) / 3.0 - light[k])
    cosine = dx * sun_direction[0] + dy * sun_direction[1] + dz * sun_direction[2]
    if glare > 0.0 and cosine > 0.0:
        halo = glare * (0.25 * cosine**40 + 1.5 * cosine**600 + (30.0 if cosine > 0.99995 else 0))
        light[0] += halo
        light[1] += 0.92 * halo
        light[2] += 0.75 * halo


@njit(nogil=True)
def surface_normal(normals, uv, dx, dy, dz, face):  # type: ignore[no-untyped-def]
    """Interpolated shading normal of a hit, facing the ray's origin.

    normals: (3, 3) of the triangle's corners. uv: barycentric weights. face: (3,) normal of the
    triangle, which is flipped so that it faces the ray's origin too.
    """
    w = 1.0 - uv[0] - uv[1]
    x = w * normals[0, 0] + uv[0] * normals[1, 0] + uv[1] * normals[2, 0]
    y = w * normals[0, 1] + uv[0] * normals[1, 1] + uv[1] * normals[2, 1]
    z = w * normals[0, 2] + uv[0] * normals[1, 2] + uv[1] * normals[2, 2]
    length = max(np.sqrt(x * x + y * y + z * z), 1e-9)
    sign = -1.0 if face[0] * dx + face[1] * dy + face[2] * dz > 0.0 else 1.0
    for k in range(3):
        face[k] *= sign
    # Both normals must be on the same side of the surface.
    side = 1.0 if (x * face[0] + y * face[1] + z * face[2]) >= 0.0 else -1.0
    return side * x / length, side * y / length, side * z / length


@njit(nogil=True)
def face_normal(corner, face):  # type: ignore[no-untyped-def]
    """Unit normal of a triangle (3, 3), written to face (3,)."""
    ax, ay, az = (
        corner[1, 0] - corner[0, 0],
        corner[1, 1] - corner[0, 1],
        corner[1, 2] - corner[0, 2],
    )
    bx, by, bz = (
        corner[2, 0] - corner[0, 0],
        corner[2, 1] - corner[0, 1],
        corner[2, 2] - corner[0, 2],
    )
    x, y, z = ay * bz - az * by, az * bx - ax * bz, ax * by - ay * bx
    length = max(np.sqrt(x * x + y * y + z * z), 1e-12)
    face[0], face[1], face[2] = x / length, y / length, z / length


@njit(nogil=True)
def shadow_rays(rays, distance, triangle, corners, sun_direction, max_distance, result):  # type: ignore[no-untyped-def]
    """Shadow rays from hits on faces towards the sun.

    Writes M rays (M, 6) to result (N, 6); returns M and the index (M,) of the hit of each ray. Hits on
    faces away from the sun and beyond max_distance are skipped.
    """
    index = np.empty(len(rays), np.int32)
    count = 0
    face = np.zeros(3)
    for i in range(len(rays)):
        if triangle[i] < 0 or distance[i] > max_distance:
            continue
        face_normal(corners[triangle[i]], face)
        facing = (
            face[0] * sun_direction[0] + face[1] * sun_direction[1] + face[2] * sun_direction[2]
        )
        cosine = face[0] * rays[i, 3] + face[1] * rays[i, 4] + face[2] * rays[i, 5]
        if facing * cosine >= 0.0:  # the visible side faces away from the sun
            continue
        for k in range(3):
            step = 0.02 if cosine < 0 else -0.02
            result[count, k] = rays[i, k] + distance[i] * rays[i, 3 + k] + step * face[k]
            result[count, 3 + k] = sun_direction[k]
        index[count] = i
        count += 1
    return count, index[:count]


@njit(nogil=True)
def apply_printed_patch(box, patch_size, x, y, z, face, colour):  # type: ignore[no-untyped-def]
    """Replace the colour (3,) by a printed pattern at the centre of a box's vertical faces.

    box: (7,) bounding box. patch_size: side length, metres. x, y, z: the surface point. face: (3,)
    normal of the face.
    """
    c, s = np.cos(box[6]), np.sin(box[6])
    along = c * (x - box[0]) + s * (y - box[1])
    across = c * (y - box[1]) - s * (x - box[0])
    is_end = abs(c * face[0] + s * face[1]) > abs(c * face[1] - s * face[0])  # front or rear
    u = across if is_end else along
    half = 0.5 * min(patch_size, 0.8 * box[5], 0.8 * (box[4] if is_end else box[3]))
    if abs(face[2]) > 0.9 or abs(u) > half or abs(z - box[2]) > half:
        return
    # 8 x 8 cells; each colour channel of a cell is either bright or dark.
    column, row = np.floor(4.0 * u / half), np.floor(4.0 * (z - box[2]) / half)
    for k in range(3):
        colour[k] = 0.9 if hash_noise(column, row, 11.0 + k) > 0.5 else 0.04


@njit(nogil=True)
def shade(  # type: ignore[no-untyped-def]
    rays, distance, triangle, uv, corners, normals, materials, object_index, ground, objects, table,
    lit, sun_direction, sunlight, zenith, horizon, lamps, headlights, origin_x, extinction,
    box_index, boxes, patch_size, light,
):  # fmt: skip
    """Light along each ray, written to light (N, 3) float32.

    ground: (T,) height of the ground below each triangle, see TriangleSoup. lit: (N,) whether the sun
    illuminates the hit. sun_direction: unit vector to the sun. sunlight,
    zenith, horizon: (3,) light of the sun and of the sky. lamps: (L, 3) positions. headlights: (8,)
    position x y z and direction x y z of the headlights, their strength, brightness of the street lamps.
    origin_x: x of the scene's origin in odom. extinction: of the air, 1/m. patch_size: side length of
    the printed patch on objects with a bounding box, metres, 0 for none.
    """
    night = headlights[6] > 0.0
    colour, reflected, face = np.zeros(3), np.zeros(3), np.zeros(3)
    glare = sunlight[1]
    for i in range(len(rays)):
        dx, dy, dz = rays[i, 3], rays[i, 4], rays[i, 5]
        j = triangle[i]
        if j < 0:
            sky_light(dx, dy, dz, sun_direction, zenith, horizon, glare, reflected)
            haze = 1.0 - np.exp(-extinction * 800.0 / (1.0 + 40.0 * max(dz, 0.0)))
            for k in range(3):
                light[i, k] = reflected[k] + haze * (horizon[k] - reflected[k])
            continue
        r = distance[i]
        x, y, z = rays[i, 0] + r * dx, rays[i, 1] + r * dy, rays[i, 2] + r * dz
        face_normal(corners[j], face)
        nx, ny, nz = surface_normal(normals[j], uv[i], dx, dy, dz, face)
        row, object_colours = table[materials[j]], objects[object_index[j]]
        height = z - ground[j]
        pane = albedo(row, object_colours, x + origin_x, y, height, face, r, colour)
        if patch_size > 0.0 and box_index[object_index[j]] >= 0:
            apply_printed_patch(
                boxes[box_index[object_index[j]]], patch_size, x, y, z, face, colour
            )
        facing = nx * sun_direction[0] + ny * sun_direction[1] + nz * sun_direction[2]
        direct = facing if lit[i] and facing > 0.0 else 0.0
        lamp_light = 0.0
        if night:
            lamp_light = lamp_irradiance(x, y, z, nx, ny, nz, lamps, headlights)
        diffuse_light(
            height, nz, face[2], direct, lamp_light, sunlight, zenith, horizon, colour, light[i]
        )
        specular = 0.10 if pane else row[SPECULAR]
        cosine = -(dx * nx + dy * ny + dz * nz)
        if specular > 0.0 and cosine > 0.0:
            add_reflection(dx, dy, dz, nx, ny, nz, cosine, specular, sun_direction, zenith, horizon,
                           light[i], reflected, glare if lit[i] else 0.0)  # fmt: skip
        if row[EMISSION] > 0.0 and night:
            on = headlights[7] > 0.0 if materials[j] == LAMP else object_colours[6] > 0.0
            for k in range(3):
                light[i, k] += row[EMISSION] * row[k] * (1.0 if on else 0.02) * 0.35
        elif (
            pane
            and headlights[7] > 0.0
            and hash_noise(np.floor((x + origin_x + y) / 2.4), np.floor(height / 3.0), 6.0) < 0.3
        ):
            light[i, 0] += 0.30
            light[i, 1] += 0.23
            light[i, 2] += 0.11
        haze = 1.0 - np.exp(-extinction * r)
        for k in range(3):
            light[i, k] += haze * (horizon[k] - light[i, k])


@njit(nogil=True)
def diffuse_light(z, nz, face_z, direct, lamp_light, sunlight, zenith, horizon, colour, light):  # type: ignore[no-untyped-def]
    """Diffusely reflected light of sun, sky, ground and lamps, written to light (3,).

    z: height of the point. nz, face_z: z of the shading and face normals. direct: cosine of the sun's
    incidence, 0 in shadow. lamp_light: irradiance by lamps. colour: (3,) albedo.
    """
    upper = 0.5 + 0.5 * nz
    # Approximate ambient occlusion: less light at the foot of vertical surfaces and below objects.
    ambient_occlusion = 1.0 if z > 0.8 or abs(face_z) > 0.8 else 0.65 + 0.35 * max(z, 0.0) / 0.8
    if face_z < -0.3:
        ambient_occlusion *= 0.5
    for k in range(3):
        lamp_colour = 1.0 if k == 0 else (0.86 if k == 1 else 0.62)
        sky = 0.4 * zenith[k] + 0.45 * horizon[k]
        ambient = upper * sky + (1 - upper) * 0.30 * (sky + sunlight[k] * 0.4)
        total = sunlight[k] * direct + ambient_occlusion * ambient + lamp_light * lamp_colour
        light[k] = colour[k] * total


@njit(nogil=True)
def add_reflection(  # type: ignore[no-untyped-def]
    dx,
    dy,
    dz,
    nx,
    ny,
    nz,
    cosine,
    specular,
    sun_direction,
    zenith,
    horizon,
    light,
    reflected,
    glare,
):
    """Add the specular reflection of sky or ground to light (3,), with Schlick's Fresnel term (1994).

    cosine: of the angle between the normal and the direction to the camera. specular: reflectance at
    normal incidence. reflected: (3,) buffer.
    """
    fraction = specular + (1 - specular) * (1 - min(cosine, 1.0)) ** 5 * 0.6
    rx, ry, rz = dx + 2 * cosine * nx, dy + 2 * cosine * ny, dz + 2 * cosine * nz
    if rz > 0.0:
        sky_light(rx, ry, rz, sun_direction, zenith, horizon, 0.15 * glare, reflected)
        # Buildings and trees occlude the sky near the horizon.
        sky_visibility = min(1.0, rz * 3.0 + 0.15)
    else:
        sky_visibility = 0.0
    for k in range(3):
        ground = 0.22 * horizon[k]
        reflected_light = ground + (reflected[k] - ground) * sky_visibility if rz > 0.0 else ground
        light[k] += fraction * (reflected_light - light[k])


@njit(nogil=True)
def lamp_irradiance(x, y, z, nx, ny, nz, lamps, headlights):  # type: ignore[no-untyped-def]
    """Irradiance of a surface point by the headlights and the lamps within 40 m, without shadows."""
    total = 0.0
    vx, vy, vz = x - headlights[0], y - headlights[1], z - headlights[2]
    square = max(vx * vx + vy * vy + vz * vz, 1.0)
    r = np.sqrt(square)
    ahead = (vx * headlights[3] + vy * headlights[4] + vz * headlights[5]) / r
    if ahead > 0.7:
        facing = max(-(vx * nx + vy * ny + vz * nz) / r, 0.0)
        # Dipped beam: wide to the sides, with a cut-off just above the lamp's height (ECE R112).
        rise = vz / r
        beam = ahead**12 * (1.0 if rise < 0.0 else np.exp(-rise / 0.03))
        total += headlights[6] * beam * (0.25 * facing + 0.75 * facing**0.5) / square
    for k in range(len(lamps)):
        vx, vy, vz = lamps[k, 0] - x, lamps[k, 1] - y, lamps[k, 2] - z
        square = vx * vx + vy * vy + vz * vz
        if square < 1600.0:
            r = np.sqrt(max(square, 0.25))
            facing = max((vx * nx + vy * ny + vz * nz) / r, 0.0)
            down = max(vz / r, 0.0)
            total += headlights[7] * facing * (0.3 + 0.7 * down) / max(square, 0.25)
    return total
