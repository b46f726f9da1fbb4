"""Layout of the Rerun viewer for the sensors of a rig."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from multimodal_perception.frame import Modality
from multimodal_perception.rig import Rig
from multimodal_perception.visualization.palette import BACKGROUND
from multimodal_perception.visualization.rerun_log import SENSOR_FOLDERS, TIMELINE

# The plots show this many seconds before the time of the other views.
PLOT_S = 30.0
# Position of the viewer's eye behind and above the vehicle, and the point in the centre of the view, in
# base_frame, metres.
EYE, EYE_TARGET = (-16.0, 0.0, 13.0), (9.0, 0.0, 0.0)
# Entities below an image that are drawn in its own view only.
IMAGE_PARTS = ("mask", "boxes2d", "objects")


def sensor_blueprint(rerun: Any, rig: Rig, live: bool = False) -> Any:
    """rerun.blueprint.Blueprint: 3D view, images, occupancy, stage times, health and messages.

    Every sensor of the rig has a place, also before its first reading. live: the views follow the
    newest data.
    """
    rrb = rerun.blueprint
    images: list[Any] = [
        rrb.Spatial2DView(origin=f"/base_link/{SENSOR_FOLDERS[modality]}/{name}", name=name)
        for modality in (Modality.CAMERA, Modality.THERMAL)
        for name in rig.sensors_of(modality)
    ]
    window = rrb.VisibleTimeRange(
        TIMELINE,
        start=rrb.TimeRangeBoundary.cursor_relative(seconds=-PLOT_S),
        end=rrb.TimeRangeBoundary.cursor_relative(),
    )
    spatial = rrb.Spatial3DView(
        origin="/base_link",
        name="sensors and objects",
        contents=["$origin/**", *[f"- {v.origin}/{part}" for v in images for part in IMAGE_PARTS]],
        background=BACKGROUND,
        eye_controls=rrb.EyeControls3D(position=EYE, look_target=EYE_TARGET, eye_up=(0, 0, 1)),
    )
    plots = rrb.Tabs(
        rrb.TimeSeriesView(origin="/stage_ms", name="stage times (ms)", time_ranges=[window]),
        rrb.TimeSeriesView(origin="/health", name="sensor rates and levels", time_ranges=[window]),
        rrb.TextLogView(origin="/log", name="messages"),
        active_tab=0,
    )
    status = rrb.Horizontal(
        rrb.Spatial2DView(origin="/occupancy", name="occupancy"),
        rrb.Tabs(
            rrb.TextDocumentView(origin="/health_table", name="sensor health"),
            rrb.TextDocumentView(origin="/evidence_table", name="evidence"),
            active_tab=0,
        ),
    )
    left = rrb.Vertical(spatial, plots, row_shares=[3, 1])
    grid = [rrb.Grid(*images, grid_columns=1 if len(images) <= 2 else 2)] if images else []
    right = rrb.Vertical(*grid, status, row_shares=[2, 1][: len(grid) + 1])
    return rrb.Blueprint(
        rrb.Horizontal(left, right, column_shares=[3, 2]),
        rrb.BlueprintPanel(state="collapsed"),
        rrb.SelectionPanel(state="collapsed"),
        rrb.TimePanel(state="collapsed", **_playback(live)),
        auto_layout=False,
        auto_views=False,
    )


def _playback(live: bool) -> Mapping[str, str]:
    return {"timeline": TIMELINE, **({"play_state": "following"} if live else {})}
