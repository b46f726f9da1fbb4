"""What a surface looks like: patterns, light and air, for one pixel at a time in compiled code.

Light is linear RGB, 1 for a white surface under the upright sun.
"""

from __future__ import annotations

import numba
import numpy as np

from multimodal_perception.simulation.world.materials import Column, Material, Texture

RED, GREEN, BLUE = int(Column.RED), int(Column.GREEN), int(Column.BLUE)
TEXTURE, GLOSS, GLOW = int(Column.TEXTURE), int(Column.GLOSS), int(Column.GLOW)
PAINT, CLOTH = int(Texture.PAINT), int(Texture.CLOTH)
ASPHALT, SLABS, GRASS = int(Texture.ASPHALT), int(Texture.SLABS), int(Texture.GRASS)
BRICK, FACADE, LEAVES = int(Texture.BRICK), int(Texture.FACADE), int(Texture.LEAVES)
CONCRETE, BARK, SHEET = int(Texture.CONCRETE), int(Texture.BARK), int(Texture.SHEET)
LAMP = int(Material.STREET_LAMP)
HEADLAMP, TAIL_LAMP = int(Material.HEADLAMP), int(Material.TAIL_LAMP)


@numba.njit(cache=True, nogil=True, inline="never")
def noise(x, y, z):  # type: ignore[no-untyped-def]
    """Even value in [0, 1) of a cell of the unit grid: an integer hash (Wellons 2018)."""
    h = np.uint32(np.int64(np.floor(x)) * 73856093 & 0xFFFFFFFF)
    h ^= np.uint32(np.int64(np.floor(y)) * 19349663 & 0xFFFFFFFF)
    h ^= np.uint32(np.int64(np.floor(z)) * 83492791 & 0xFFFFFFFF)
    h = np.uint32((h ^ (h >> np.uint32(16))) * np.uint32(0x7FEB352D))
    h = np.uint32((h ^ (h >> np.uint32(15))) * np.uint32(0x846CA68B))
    h = np.uint32(h ^ (h >> np.uint32(16)))
    return float(h) / 4294967296.0


@numba.njit(cache=True, nogil=True)
def smooth_noise(x, y):  # type: ignore[no-untyped-def]
    """Value in [0, 1) that varies smoothly over a unit of the plane (value noise, Perlin 1985)."""
    i, j = np.floor(x), np.floor(y)
    u, v = x - i, y - j
    u, v = u * u * (3 - 2 * u), v * v * (3 - 2 * v)
    low = noise(i, j, 0.0) * (1 - u) + noise(i + 1, j, 0.0) * u
    high = noise(i, j + 1, 0.0) * (1 - u) + noise(i + 1, j + 1, 0.0) * u
    return low * (1 - v) + high * v


@numba.njit(cache=True, nogil=True)
def window_pane(along, z):  # type: ignore[no-untyped-def]
    """Of a facade at a place along it and a height: 0 wall, 1 frame, 2 pane."""
    u = along / 2.4 - np.floor(along / 2.4)
    v = (z - 0.3) / 3.0 - np.floor((z - 0.3) / 3.0)
    if z < 0.5 or not (0.22 < u < 0.78 and 0.24 < v < 0.76):
        return 0
    if 0.26 < u < 0.74 and 0.27 < v < 0.73 and abs(u - 0.5) > 0.015:
        return 2
    return 1


@numba.njit(cache=True, nogil=True)
def albedo(row, base, own, x, y, z, nx, ny, nz, distance, colour):  # type: ignore[no-untyped-def]
    """Reflected share of light into colour (3,); returns whether it is a window pane.

    row: TABLE's row. base: its number. own: the object's colours. x y z: the place in odom.
    """
    texture = int(row[TEXTURE])
    for k in range(3):
        colour[k] = row[k]
    # Further away than this a pattern would only flicker.
    fine = max(0.0, 1.0 - distance / 35.0)
    along = x if abs(ny) > abs(nx) else y
    if texture == PAINT:
        for k in range(3):
            colour[k] = own[k]
    elif texture == CLOTH:
        for k in range(3):
            colour[k] = own[3 + k]
    elif texture == ASPHALT:
        rough = 0.82 + 0.30 * smooth_noise(x * 0.35, y * 0.8)
        rough += fine * 0.30 * (noise(x * 45, y * 45, 1.0) - 0.5)
        for k in range(3):
            colour[k] *= rough
    elif texture == SLABS:
        u, v = x / 0.6 - np.floor(x / 0.6), y / 0.6 - np.floor(y / 0.6)
        tone = 0.88 + 0.24 * noise(x / 0.6, y / 0.6, 2.0)
        if (u < 0.04 or v < 0.04) and distance < 45:
            tone *= 1.0 - 0.35 * max(0.0, 1 - distance / 45.0)
        for k in range(3):
            colour[k] *= tone
    elif texture == GRASS:
        tone = 0.7 + 0.4 * smooth_noise(x * 0.6, y * 0.6) + 0.4 * fine * noise(x * 22, y * 22, 3.0)
        for k in range(3):
            colour[k] *= tone
    elif texture == LEAVES:
        tone = (
            0.5 + 0.55 * noise(x * 7, y * 7, z * 7) + 0.4 * (smooth_noise(x * 2 + z, y * 2) - 0.3)
        )
        for k in range(3):
            colour[k] *= tone
    elif texture == BRICK:
        course = np.floor(z / 0.24)
        u = along / 0.5 + 0.5 * (course % 2)
        tone = 0.85 + 0.30 * noise(u, course, 4.0) * min(1.0, 0.3 + fine)
        joint = u - np.floor(u) < 0.06 or z / 0.24 - course < 0.10
        if joint and distance < 35:
            tone += 0.25 * fine
        for k in range(3):
            colour[k] *= tone
    elif texture == FACADE:
        for k in range(3):
            colour[k] = own[3 + k] * (0.92 + 0.12 * smooth_noise(along * 0.7, z * 0.5))
        if abs(nz) < 0.5:
            pane = window_pane(along, z)
            if pane == 2:
                for k in range(3):
                    colour[k] = 0.06 + 0.05 * noise(along / 2.4, z / 3.0, 5.0)
                return True
            if pane == 1:
                for k in range(3):
                    colour[k] = 0.75
    elif texture == CONCRETE:
        tone = 0.85 + 0.25 * smooth_noise(x * 0.9 + z, y * 0.9 + z)
        for k in range(3):
            colour[k] *= tone
    elif texture == BARK:
        tone = 0.75 + 0.5 * noise(x * 12, y * 12, z * 3)
        for k in range(3):
            colour[k] *= tone
    elif texture == SHEET:
        tone = 0.85 + 0.15 * np.sin(along * 2 * np.pi / 0.25) * fine
        for k in range(3):
            colour[k] *= tone
    return False


@numba.njit(cache=True, nogil=True)
def sky_light(dx, dy, dz, sun, zenith, horizon, glare, light):  # type: ignore[no-untyped-def]
    """Light of the sky along a direction into light (3,), with the sun's disc and halo."""
    up = max(dz, 0.0) ** 0.5
    for k in range(3):
        light[k] = horizon[k] + (zenith[k] - horizon[k]) * up
    cloud = smooth_noise(3.0 * dx / (dz + 0.25) + 20.0, 3.0 * dy / (dz + 0.25))
    cloud += 0.5 * smooth_noise(7.0 * dx / (dz + 0.25) + 9.0, 7.0 * dy / (dz + 0.25))
    share = min(max((cloud - 0.75) * 1.4, 0.0), 0.7) * min(max(dz * 5.0, 0.0), 1.0)
    for k in range(3):
        light[k] += share * (0.95 * (horizon[0] + horizon[1] + horizon[2]) / 3.0 - light[k])
    towards = dx * sun[0] + dy * sun[1] + dz * sun[2]
    if glare > 0.0 and towards > 0.0:
        halo = glare * (
            0.25 * towards**40 + 1.5 * towards**600 + (30.0 if towards > 0.99995 else 0)
        )
        light[0] += halo
        light[1] += 0.92 * halo
        light[2] += 0.75 * halo


@numba.njit(cache=True, nogil=True)
def surface_normal(normals, uv, dx, dy, dz, flat):  # type: ignore[no-untyped-def]
    """The smooth normal of a hit, on the side of the ray; `flat` (3,) gets the face's own."""
    w = 1.0 - uv[0] - uv[1]
    x = w * normals[0, 0] + uv[0] * normals[1, 0] + uv[1] * normals[2, 0]
    y = w * normals[0, 1] + uv[0] * normals[1, 1] + uv[1] * normals[2, 1]
    z = w * normals[0, 2] + uv[0] * normals[1, 2] + uv[1] * normals[2, 2]
    length = max(np.sqrt(x * x + y * y + z * z), 1e-9)
    sign = -1.0 if flat[0] * dx + flat[1] * dy + flat[2] * dz > 0.0 else 1.0
    for k in range(3):
        flat[k] *= sign
    # The two belong to one side.
    same = 1.0 if (x * flat[0] + y * flat[1] + z * flat[2]) >= 0.0 else -1.0
    return same * x / length, same * y / length, same * z / length


@numba.njit(cache=True, nogil=True)
def face_normal(corner, flat):  # type: ignore[no-untyped-def]
    """Unit normal of a triangle (3, 3) into flat (3,)."""
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
    flat[0], flat[1], flat[2] = x / length, y / length, z / length


@numba.njit(cache=True, nogil=True)
def shadow_rays(rays, distance, triangle, corners, sun, furthest, result):  # type: ignore[no-untyped-def]
    """Rays (M, 6) from lit hits to the sun into result; returns M and the index (M,) of each."""
    index = np.empty(len(rays), np.int32)
    count = 0
    flat = np.zeros(3)
    for i in range(len(rays)):
        if triangle[i] < 0 or distance[i] > furthest:
            continue
        face_normal(corners[triangle[i]], flat)
        facing = flat[0] * sun[0] + flat[1] * sun[1] + flat[2] * sun[2]
        towards = flat[0] * rays[i, 3] + flat[1] * rays[i, 4] + flat[2] * rays[i, 5]
        if facing * towards >= 0.0:  # the sun is behind the face that is seen
            continue
        for k in range(3):
            step = 0.02 if towards < 0 else -0.02
            result[count, k] = rays[i, k] + distance[i] * rays[i, 3 + k] + step * flat[k]
            result[count, 3 + k] = sun[k]
        index[count] = i
        count += 1
    return count, index[:count]


@numba.njit(cache=True, nogil=True)
def printed(box, side, x, y, z, flat, colour):  # type: ignore[no-untyped-def]
    """The colour of a print of `side` metres in the middle of a box's upright faces."""
    c, s = np.cos(box[6]), np.sin(box[6])
    along = c * (x - box[0]) + s * (y - box[1])
    across = c * (y - box[1]) - s * (x - box[0])
    end = abs(c * flat[0] + s * flat[1]) > abs(c * flat[1] - s * flat[0])
    u = across if end else along
    half = 0.5 * min(side, 0.8 * box[5], 0.8 * (box[4] if end else box[3]))
    if abs(flat[2]) > 0.9 or abs(u) > half or abs(z - box[2]) > half:
        return
    # Eight cells to a side, each channel full or empty.
    column, row = np.floor(4.0 * u / half), np.floor(4.0 * (z - box[2]) / half)
    for k in range(3):
        colour[k] = 0.9 if noise(column, row, 11.0 + k) > 0.5 else 0.04


@numba.njit(cache=True, nogil=True)
def shade(  # type: ignore[no-untyped-def]
    rays, distance, triangle, uv, corners, normals, materials, object_of, objects, table,
    lit, sun, sunlight, zenith, horizon, lamps, head, origin_x, extinction, box_of, boxes, patch,
    light,
):  # fmt: skip
    """Light (N, 3) float32 of each ray. lit: (N,) whether the sun reaches it. patch: side of the print
    on what has a box, metres, 0 for none.

    head: (8,) ego place x y z, forward x y z, strength, brightness of the street lamps.
    """
    night = head[6] > 0.0
    colour, mirrored, flat = np.zeros(3), np.zeros(3), np.zeros(3)
    glare = sunlight[1]
    for i in range(len(rays)):
        dx, dy, dz = rays[i, 3], rays[i, 4], rays[i, 5]
        j = triangle[i]
        if j < 0:
            sky_light(dx, dy, dz, sun, zenith, horizon, glare, mirrored)
            haze = 1.0 - np.exp(-extinction * 800.0 / (1.0 + 40.0 * max(dz, 0.0)))
            for k in range(3):
                light[i, k] = mirrored[k] + haze * (horizon[k] - mirrored[k])
            continue
        r = distance[i]
        x, y, z = rays[i, 0] + r * dx, rays[i, 1] + r * dy, rays[i, 2] + r * dz
        face_normal(corners[j], flat)
        nx, ny, nz = surface_normal(normals[j], uv[i], dx, dy, dz, flat)
        row, own = table[materials[j]], objects[object_of[j]]
        pane = albedo(
            row, materials[j], own, x + origin_x, y, z, flat[0], flat[1], flat[2], r, colour
        )
        if patch > 0.0 and box_of[object_of[j]] >= 0:
            printed(boxes[box_of[object_of[j]]], patch, x, y, z, flat, colour)
        facing = nx * sun[0] + ny * sun[1] + nz * sun[2]
        direct = facing if lit[i] and facing > 0.0 else 0.0
        # Light from the sky and back from the ground; less near the foot of upright things.
        upper = 0.5 + 0.5 * nz
        near = 1.0 if z > 0.8 or abs(flat[2]) > 0.8 else 0.65 + 0.35 * max(z, 0.0) / 0.8
        if flat[2] < -0.3:
            near *= 0.5
        lamp_light = 0.0
        if night:
            lamp_light = near_lamps(x, y, z, nx, ny, nz, lamps, head)
        for k in range(3):
            warm = 1.0 if k == 0 else (0.86 if k == 1 else 0.62)
            sky = 0.4 * zenith[k] + 0.45 * horizon[k]
            around = upper * sky + (1 - upper) * 0.30 * (sky + sunlight[k] * 0.4)
            total = sunlight[k] * direct + near * around + lamp_light * warm
            light[i, k] = colour[k] * total
        gloss = 0.10 if pane else row[GLOSS]
        against = -(dx * nx + dy * ny + dz * nz)
        if gloss > 0.0 and against > 0.0:
            mirror(dx, dy, dz, nx, ny, nz, against, gloss, sun, zenith, horizon, light[i], mirrored,
                   glare if lit[i] else 0.0)  # fmt: skip
        if row[GLOW] > 0.0 and night:
            on = head[7] > 0.0 if materials[j] == LAMP else own[6] > 0.0
            for k in range(3):
                light[i, k] += row[GLOW] * row[k] * (1.0 if on else 0.02) * 0.35
        elif (
            pane
            and head[7] > 0.0
            and noise(np.floor((x + origin_x + y) / 2.4), np.floor(z / 3.0), 6.0) < 0.3
        ):
            light[i, 0] += 0.30
            light[i, 1] += 0.23
            light[i, 2] += 0.11
        haze = 1.0 - np.exp(-extinction * r)
        for k in range(3):
            light[i, k] += haze * (horizon[k] - light[i, k])


@numba.njit(cache=True, nogil=True)
def mirror(  # type: ignore[no-untyped-def]
    dx, dy, dz, nx, ny, nz, against, gloss, sun, zenith, horizon, light, mirrored, glare
):
    """Adds what a glossy face mirrors: sky or ground, by Schlick (1994)."""
    share = gloss + (1 - gloss) * (1 - min(against, 1.0)) ** 5 * 0.6
    rx, ry, rz = dx + 2 * against * nx, dy + 2 * against * ny, dz + 2 * against * nz
    if rz > 0.0:
        sky_light(rx, ry, rz, sun, zenith, horizon, 0.15 * glare, mirrored)
        # Houses and trees hide the sky near the horizon.
        open_sky = min(1.0, rz * 3.0 + 0.15)
    else:
        open_sky = 0.0
    for k in range(3):
        ground = 0.22 * horizon[k]
        seen = ground + (mirrored[k] - ground) * open_sky if rz > 0.0 else ground
        light[k] += share * (seen - light[k])


@numba.njit(cache=True, nogil=True)
def near_lamps(x, y, z, nx, ny, nz, lamps, head):  # type: ignore[no-untyped-def]
    """Light of the ego's head lamps and of street lamps on a face, without shadows."""
    total = 0.0
    vx, vy, vz = x - head[0], y - head[1], z - head[2]
    square = max(vx * vx + vy * vy + vz * vz, 1.0)
    r = np.sqrt(square)
    ahead = (vx * head[3] + vy * head[4] + vz * head[5]) / r
    if ahead > 0.7:
        facing = max(-(vx * nx + vy * ny + vz * nz) / r, 0.0)
        # Dipped beam: wide to the sides, cut off just above the lamp's height (ECE R112).
        rise = vz / r
        beam = ahead**12 * (1.0 if rise < 0.0 else np.exp(-rise / 0.03))
        total += head[6] * beam * (0.25 * facing + 0.75 * facing**0.5) / square
    for k in range(len(lamps)):
        vx, vy, vz = lamps[k, 0] - x, lamps[k, 1] - y, lamps[k, 2] - z
        square = vx * vx + vy * vy + vz * vz
        if square < 1600.0:
            r = np.sqrt(max(square, 0.25))
            facing = max((vx * nx + vy * ny + vz * nz) / r, 0.0)
            down = max(vz / r, 0.0)
            total += head[7] * facing * (0.3 + 0.7 * down) / max(square, 0.25)
    return total
