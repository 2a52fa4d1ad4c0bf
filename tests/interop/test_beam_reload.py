"""The libraries of erl/ loaded anew, as by l(pore_nif), while straws and tubes are busy; and one that does not fit."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from beamkit.strawpeer import ROOT, BeamPeer, PythonPeer
from beamkit.tubepeer import BeamTubes, packets
from membranekit.exchange import connect
from membranekit.processes import HostProcess

pytestmark = pytest.mark.usefixtures("python_only")

RELOAD = (
    "[begin {module, M} = code:load_file(M), (fun Purge() -> code:soft_purge(M) orelse Purge() end)(), "
    "timer:sleep(2) end || _ <- lists:seq(1, 20), M <- [pore_nif, straw_codec]], loaded"
)

Starter = Callable[..., Any]


@pytest.mark.parametrize("otp", ["otp25", "otp28"])
def test_while_a_straw_is_busy(
    start_beam: Starter, app: Path, beams: Path, host: HostProcess, rundir: str, otp: str
) -> None:
    one = BeamPeer(start_beam(otp, name=None, paths=[app]), rundir)
    with PythonPeer(rundir) as other:
        connect(one, other)
        work = {"seed": 5, "count": 2000, "limit": 100_000}
        asked = [
            (a, a.start(do, peer=b.domid, **work))
            for a, b in ((one, other), (other, one))
            for do in ("send", "receive")
        ]
        assert one.eval(RELOAD) == "loaded"
        answers = [peer.result(number) for peer, number in asked]
        assert all(answer == answers[0] for answer in answers) and answers[0]["count"] == 2000
        one.do("close", peer=other.domid)
        assert sum(one.quiet()["held"].values()) == 0
        connect(other, one)
        one.do("stop")


@pytest.mark.parametrize("otp", ["otp25", "otp28"])
def test_while_a_tube_is_busy(
    start_beam: Starter, app: Path, beams: Path, host: HostProcess, rundir: str, otp: str
) -> None:
    one, other = (BeamTubes(start_beam(label, name=None, paths=[app]), rundir) for label in (otp, "otp25"))
    assert one.do("open", other.domid, 1) == {}
    mine, its = (other.domid, 1, True), (one.domid, 1, False)
    other.do("wait", its)
    sending = one.start("send", mine, 1, 5000)
    got = other.start("recv", its, 5000)
    assert one.eval(RELOAD) == other.eval(RELOAD) == "loaded"
    assert one.result(sending) == {"sent": 5000}
    assert other.result(got)["got"] == list(packets(1, 5000))
    other.do("close", its)
    assert one.do("ended", mine)["reason"] == "peer_closed"
    assert sum(one.do("quiet")["held"].values()) == 0


@pytest.mark.parametrize("otp", ["otp25", "otp28"])
def test_a_library_of_another_layout_is_refused(
    start_beam: Starter, app: Path, beams: Path, host: HostProcess, rundir: str, tmp_path: Path, otp: str
) -> None:
    make = ["make", "-s", "-C", str(ROOT / "erl"), f"PRIV={tmp_path}", "SANITIZE=-DPORE_NIF_LAYOUT=1000"]
    made = subprocess.run([*make, f"{tmp_path}/pore_nif.so"], capture_output=True, text=True, timeout=100)
    assert made.returncode == 0, made.stdout + made.stderr
    one = BeamTubes(start_beam(otp, name=None, paths=[app]), rundir)
    other = BeamTubes(start_beam(otp, name=None, paths=[app]), rundir)
    assert one.do("open", other.domid, 1) == {}
    mine, its = (other.domid, 1, True), (one.domid, 1, False)
    other.do("wait", its)
    refused = one.eval(f'application:set_env(straw, nif_folder, "{tmp_path}"), code:load_file(pore_nif)')
    assert refused == ("error", "on_load_failure")
    assert one.do("send", mine, 1, 20) == {"sent": 20}
    assert other.do("recv", its, 20)["got"] == list(packets(1, 20))
