from pathlib import Path

from multimodal_perception.training.curves import Curves


def test_a_resumed_run_keeps_the_rows_up_to_its_step(tmp_path: Path) -> None:
    first = Curves(tmp_path)
    for step in range(1, 5):
        first.add(step, {"loss/a": 1.0 / step})
    first.save()
    spent = float((tmp_path / "curves.csv").read_text().split(",")[-1])
    resumed = Curves(tmp_path, steps_done=2)
    resumed.add(3, {"loss/a": 0.5, "miou/both": 0.1})
    resumed.save()
    rows = (tmp_path / "curves.csv").read_text().splitlines()
    assert [r.rsplit(",", 1)[0] for r in rows[:-1]] == [
        "1,loss/a",
        "2,loss/a",
        "3,loss/a",
        "3,miou/both",
    ]
    assert rows[-1].startswith("3,hours,") and resumed.hours >= spent > 0.0
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
