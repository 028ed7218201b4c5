from __future__ import annotations

from typing import Any

from lenet.report.tables import doctor_table, parity_sheet
from tests.report.tables.examples import render


def test_the_quality_table_has_the_coursework_s_form_and_names_the_layer_at_fault() -> None:
    right = {"backend": "pytorch", "precision": "fp32", "loss": 0.81234, "accuracy": 0.7251, "images": 10_000}
    right |= {"delta_loss": None, "delta_accuracy": None, "max_abs_delta": 9.5e-6, "share_of_tolerance": 0.113}
    right |= {"right": True, "diverging_layer": None}
    wrong = right | {
        "backend": "tripy",
        "precision": "tf32",
        "delta_loss": 2e-4,
        "delta_accuracy": 1e-4,
        "right": False,
    }
    sheet = parity_sheet([right, wrong, wrong | {"diverging_layer": "conv2"}])
    assert sheet.title == "LeNet on 10,000 images"
    assert sheet.lines == (
        ("pytorch", "fp32", "0.8123400", "0.7251", "-", "-", "9.5e-06", "0.11", "yes"),
        ("tripy", "tf32", "0.8123400", "0.7251", "2.0e-04", "1.0e-04", "9.5e-06", "0.11", "NO:\nunknown\nlayer"),
        ("tripy", "tf32", "0.8123400", "0.7251", "2.0e-04", "1.0e-04", "9.5e-06", "0.11", "NO:\nconv2"),
    )


def test_the_doctor_says_what_worked_and_of_what_did_not_what_to_do_and_the_log_s_end() -> None:
    def line(backend: str, *steps: tuple[str, bool, str], advice: str = "") -> dict[str, Any]:
        found = [{"name": name, "passed": passed, "seconds": 1.25, "message": text} for name, passed, text in steps]
        common = {"version": None, "precision": None, "log": [f"{backend} {number}" for number in range(21)]}
        return common | {"backend": backend, "passed": steps[-1][1], "steps": found, "advice": advice}

    lines = [
        line("fine", ("import", True, ""), ("compare", True, "it is right")),
        line("absent", ("import", False, "install it"), advice="install it"),
        line("broken", ("import", True, ""), ("build", False, "no kernel"), advice="update the driver"),
    ]
    text = render(doctor_table({"torch": "2.14", "gpu": None}, lines), 120)
    head, _, details = text.partition("fine: it is right\n")
    rows = [row.split() for row in head.splitlines()]
    assert [row for row in rows if row and row[0] in {"fine", "absent", "broken"}] == [
        ["fine", "-", "-", "1.2", "s", "-", "-", "1.2", "s"],
        ["absent", "-", "-", "no", "-", "-", "-"],
        ["broken", "-", "-", "1.2", "s", "no", "-", "-"],
    ]
    assert head.startswith("torch 2.14\n")
    log = "".join(f"  | broken {number}\n" for number in range(1, 21))
    assert details == f"absent: import: install it\nbroken: build: no kernel\n  next: update the driver\n{log}"
