"""The membrane's table and machine under anything that can happen, in any order."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parents[1]))  # membranekit; there is no __init__.py below tests/

from membranekit.ling import Ling
from membranekit.world import Domain, World

from pores.keys import LIMIT_DOMID, STRAW, Terms, agree, domid_of, number, pack_refs, terms_keys, terms_of, unpack_refs
from pores.kinds import STRAW_KIND
from pores.membrane import Machine
from pores.membrane_table import ACTIVE, BUSY, EXTERNAL, GONE, PASSIVE, START, TABLE, erlang_terms, states
from pores.work import Closed, Key, Opened, PoreResult, PoreWork, StoreResult, StoreWork

ROLES = [PASSIVE, ACTIVE]
RESULTS = ["ok", "no", "busy", "narrow", "clear", "occupied", "overdue", "genuine", "glare", "forged", "stale", "left"]


# ── the table ──


@pytest.mark.parametrize("role", ROLES)
def test_every_state_is_reached_and_can_end(role: str) -> None:
    rows = TABLE[role]
    reached, ends = {START}, {GONE}
    for _ in rows:
        reached |= {row.state for (state, _), row in rows.items() if state in reached}
        ends |= {state for (state, _), row in rows.items() if row.state in ends}
    assert reached == ends == set(states(role))


@pytest.mark.parametrize("role", ROLES)
def test_busy_states_take_results_and_others_take_what_comes(role: str) -> None:
    for state, what in TABLE[role]:
        if state == START:
            continue
        assert (state in BUSY[role]) == (what not in EXTERNAL), (state, what)
    for state in BUSY[role] - {"LOOKING", "VERIFYING"}:  # these have results of their own
        assert (state, "ok") in TABLE[role] and (state, "no") in TABLE[role], state
    assert {what for state, what in TABLE[PASSIVE] if state == "LOOKING"} == {"clear", "occupied", "overdue", "no"}
    found = {what for state, what in TABLE[ACTIVE] if state == "VERIFYING"}
    assert found == {"genuine", "glare", "forged", "stale", "no", "left"}


@pytest.mark.parametrize("role", ROLES)
def test_whoever_waits_for_a_peer_hears_of_its_end(role: str) -> None:
    for state in states(role):
        if state not in BUSY[role] and state not in (START, GONE, "OLD_WAIT", "STUCK"):
            assert (state, "gone") in TABLE[role], state
            assert (state, "p6") in TABLE[role], state
            if role == PASSIVE and state != "LEAVING":
                assert (state, "p5") in TABLE[role], state


@pytest.mark.parametrize("role", ROLES)
def test_states_with_a_limit_hear_of_its_end(role: str) -> None:
    limited = {"pause", "limit", "fail_limit", "linger", "wait_opener", "keep", "closing_limit", "retry_later"}
    for row in TABLE[role].values():
        if row.action in limited:
            assert (row.state, "timer") in TABLE[role], row


def test_an_owner_can_leave_at_any_time() -> None:
    for state in ("OLD_WAIT", "INIT_WAIT", "ATTACHED"):
        assert (state, "late") in TABLE[PASSIVE] and (state, "close") in TABLE[PASSIVE]
    for state in ("HELD", "INITIALISING", "INITIALISED", "CONNECTED"):
        assert (state, "close") in TABLE[ACTIVE]
    # As LING's passive side: connected is 4, and everything else is the end.
    assert {what for state, what in TABLE[PASSIVE] if state == "CONNECTED" and what[0] == "p"} == {
        "p1", "p2", "p3", "p5", "p6"
    }  # fmt: skip


def test_the_table_as_erlang_terms() -> None:
    text = erlang_terms()
    assert "{passive, 'INIT_WAIT', p3, read_offer, 'READING'}.\n" in text
    assert text.count("\n") == sum(map(len, TABLE.values()))


@pytest.mark.parametrize("role", ROLES)
def test_every_state_with_every_input(role: str) -> None:
    """Nothing raises, the state is the table's, and a state that is busy has asked for work."""
    for state in states(role):
        for what in [*sorted(EXTERNAL), *RESULTS]:
            machine = Machine(1)
            machine.state = "running"
            key = Key(role, 2)
            pore = machine._add(key, asked=True)
            pore.state = state
            pore.watching = True
            pore.opened = state == "CONNECTED"
            was_busy = pore.busy
            pore.offer = pore.offer._replace(refs=tuple(range(129)), ports=(1,))
            pore.terms = machine.wishes
            pore.feed(what, 10.0)
            row = TABLE[role].get((state, what))
            if state == GONE or row is None or (was_busy and what in EXTERNAL):
                assert pore.state == state
            else:
                assert pore.state == row.state
                if pore.busy:
                    assert [work for work in machine.data_to_send() if getattr(work, "tag", "") != "look"]
            if pore.state == GONE and state != GONE:
                assert key not in machine.pores


@given(
    role=st.sampled_from(ROLES),
    inputs=st.lists(st.sampled_from([*sorted(EXTERNAL), "result", "refusal", "nonsense"]), max_size=60),
    data=st.data(),
)
def test_any_inputs_and_any_results(role: str, inputs: list[str], data: st.DataObject) -> None:
    """Whatever the store and the peer say, one piece of work at a time, and at most one opened and one closed."""
    machine = Machine(1)
    machine.state = "running"
    key = Key(role, 2)
    pore = machine._add(key, asked=role == PASSIVE)
    pore.feed("open", 1.0)
    works: list[StoreWork | PoreWork] = []
    value = st.sampled_from(
        [None, b"", b"1", b"2", b"3", b"4", b"5", b"6", b"otp", b"erlang", b"17", b"\xff", b"9" * 99]
    )
    now = 1.0
    for what in inputs:
        now += 0.3
        works += machine.data_to_send()
        own = [work for work in works if getattr(work, "tag", "") != "look"]
        assert len(own) <= 1 and (not own or pore.busy or pore.state == GONE)
        if what in EXTERNAL:
            pore.feed(what, now)
        elif works:
            work = works.pop(0)
            if isinstance(work, StoreWork):
                if what == "refusal":
                    result = StoreResult((), data.draw(st.sampled_from(["EACCES", "ENOENT", "ENOSPC", "EIO"])))
                elif what == "nonsense":
                    drawn = [
                        data.draw(st.sampled_from([None, ["b2"], ["n1", "b2"], ["x"], [], [""]]))
                        if step[0] == "get_perms"
                        else data.draw(value)
                        for step in work.steps
                    ]
                    result = StoreResult(tuple(drawn))
                else:
                    result = StoreResult(tuple(honest(step) for step in work.steps))
                machine.store_result(work, result, now)
            else:
                busy = work.verb == "withdraw" and data.draw(st.booleans())
                refs = pore.offer._replace(refs=tuple(range(129 if work.terms.ring_bytes else 8)), ports=(1,))
                machine.pore_result(work, PoreResult("limit" if what == "refusal" else "", refs, busy), now)
        machine.handle_timer(now)
    events = []
    while (event := machine.next_event()) is not None:
        events.append(event)
    opened = [event for event in events if isinstance(event, Opened)]
    closed = [event for event in events if isinstance(event, Closed)]
    assert len(closed) <= len(opened) <= 1 or role == ACTIVE


def honest(step: tuple[object, ...]) -> object:
    """What an honest peer's store would say, more or less."""
    path = str(step[-1])
    if step[0] not in ("read", "get_perms"):
        return None
    if step[0] == "get_perms":
        return ["r2", "b1"]
    if path.endswith("/data/straw/1"):
        return None
    if path.endswith("/warts"):
        return (
            f"/local/domain/{1 if '/domain/2/' in path else 2}/data/warts/{2 if '/domain/2/' in path else 1}".encode()
        )
    if path.endswith("/straw"):
        return b"/local/domain/1/data/straw/2"
    return {"state": b"3" if "/straw/" in path else b"2"}.get(path.rsplit("/", 1)[1], b"17")


# ── two machines and a store, in any order ──

# MEMBRANE_EXAMPLES=5000 for a night's run.
SLOW = settings(
    max_examples=int(os.environ.get("MEMBRANE_EXAMPLES", "150")), suppress_health_check=[HealthCheck.too_slow]
)

WISHES = st.sampled_from(
    [None, Terms(), Terms("json"), Terms(dialect="otp"), Terms(dialect="otp", ring_bytes=4096, suppress=True)]
)
DEEDS = st.lists(
    st.tuples(
        st.sampled_from(
            ["open", "close", "give_up", "ended", "restart", "kill", "forge", "steps", "settle", "refuse", "fault"]
        ),
        st.sampled_from([1, 2]),
        st.integers(0, 40),
    ),
    max_size=12,
)


@SLOW
@given(seed=st.integers(0, 2**32), lose=st.sampled_from([0, 0.3, 1]), repeat=st.sampled_from([0, 0.5]),
       one=WISHES, other=WISHES, deeds=DEEDS)  # fmt: skip
def test_two_of_us(
    seed: int, lose: float, repeat: float, one: Terms | None, other: Terms | None, deeds: list[tuple[str, int, int]]
) -> None:
    world = World(seed)
    world.lose, world.repeat = lose, repeat
    world.tree.introduce(3)
    for domid, wishes in ((1, one), (2, other)):
        world.add(domid, wishes=wishes).start()
    world.steps(seed % 20)
    for deed, who, number_ in deeds:
        do(world, deed, who, number_)
    finish(world)


def do(world: World, deed: str, who: int, count: int) -> None:
    domain = world.domains[who]
    peer = 3 - who
    if deed == "steps":
        world.steps(count)
    elif deed == "settle":
        world.settle(count / 4)
    elif deed == "refuse":
        world.hypervisor.refuse = {["grant", "attach", "wide", ""][count % 4]}
    elif deed == "fault":
        world.fault = [0.0, 0.1, 0.5, 1.0][count % 4]
    elif deed == "forge":
        session = world.tree.open(3)
        try:
            session.write(f"/local/domain/{who}/data/straw/{peer}/{['warts', 'state'][count % 2]}", b"5")
        except Exception as error:
            assert type(error).__name__ == "XenstoreError"
        session.close()
    elif not domain.alive:
        pass
    elif deed == "open":
        if peer not in domain.asked and domain.machine.state in ("starting", "running"):
            domain.open(peer)
    elif deed == "give_up":
        domain.asked.pop(peer, None)
        domain.machine.give_up(peer, world.now)
        domain.pump()
    elif deed in ("close", "ended"):
        for key in domain.connected(peer):
            (domain.close if deed == "close" else domain.ended)(key)
    elif deed == "restart":
        world.hypervisor.died(who)
        domain.session.close()
        world.add(who, wishes=domain.machine.wishes).start()
    elif deed == "kill":
        domain.die()


def stranger(world: World, path: str) -> bool:
    session = world.tree.open(0)
    owner = session.get_perms("/".join(path.split("/")[:7]))[0]
    session.close()
    return owner.endswith("3")


def finish(world: World) -> None:
    """All comes to rest: both sides agree, and nothing is left behind."""
    world.settle(100)
    world.fault = 0.0
    world.settle(200)
    domains: list[Domain] = [domain for domain in world.domains.values() if domain.alive]
    for domain in domains:
        assert not domain.asked, "an open was never answered"
        for event in domain.of(Closed):
            assert any(opened.key == event.key for opened in domain.of(Opened))
        for pore in domain.machine.pores.values():
            assert pore.state == "CONNECTED", (domain.domid, pore.state, pore.role)
            other = world.domains[pore.peer]
            assert other.alive
            assert Key(ACTIVE if pore.role == PASSIVE else PASSIVE, domain.domid) in other.connected(domain.domid)
        for path in world.keys(domain.domid):
            _, _, _, _, _, top, peer, *_ = path.split("/")
            role = ACTIVE if top == "straw" else PASSIVE
            # Only what is in use, and what a stranger has left.
            assert Key(role, int(peer)) in domain.machine.pores or stranger(world, path), path
    for domain in domains:
        domain.stop()
    world.settle(30)
    assert all(domain.machine.state == "stopped" for domain in domains)
    world.nothing_left()


@SLOW
@given(
    seed=st.integers(0, 2**32),
    deeds=st.lists(
        st.tuples(st.sampled_from(["open", "ling_opens", "close", "mute", "steps", "settle"]), st.integers(0, 30)),
        max_size=10,
    ),
)
def test_ling_never_dies_and_never_hangs(seed: int, deeds: list[tuple[str, int]]) -> None:
    world = World(seed)
    we, ling = world.add(1), Ling(world, 5)
    we.start()
    world.settle()
    for deed, count in deeds:
        if deed == "open" and 5 not in we.asked:
            we.open(5)
        elif deed == "ling_opens":
            ling.open(1)
        elif deed == "close":
            for key in we.connected(5):
                we.close(key)
        elif deed == "mute":
            ling.mute = not ling.mute
        elif deed == "steps":
            world.steps(count)
        else:
            world.settle(count / 4)
    ling.mute = False
    world.settle(200)
    assert ling.running is None, f"LING waits for ever for {ling.waiting}"
    assert not we.asked
    assert not ling.leaked or any(deed == "mute" for deed, _ in deeds)
    assert sorted(role for role, _ in ling.straws) == sorted(
        PASSIVE if key.role == ACTIVE else ACTIVE for key in we.connected(5)
    )
    we.stop()
    world.settle(30)
    assert we.machine.state == "stopped" and not ling.straws
    world.nothing_left()


# ── keys ──


@given(st.binary(max_size=12))
def test_numbers_are_canonical(value: bytes) -> None:
    n = number(value)
    assert n is None or (str(n).encode() == value and n < 2**32)


@given(st.text(max_size=8))
def test_domids_are_canonical(name: str) -> None:
    domid = domid_of(name)
    assert domid is None or (str(domid) == name and domid < LIMIT_DOMID)


@given(st.text(max_size=60), st.sampled_from(["", "/local/domain/7/data/straw/"]))
def test_only_exact_paths_are_knocks(tail: str, head: str) -> None:
    knocker = STRAW.knocker(7, head + tail)
    assert knocker is None or head + tail == f"/local/domain/7/data/straw/{knocker[0]}/warts"


terms = st.builds(
    Terms,
    st.sampled_from(["erlang", "json"]),
    st.sampled_from(["", "otp"]),
    st.sampled_from([0, 4096, 65536, 1 << 20]),
    st.booleans(),
)


@given(terms, terms)
def test_both_sides_agree_on_the_same(a: Terms, b: Terms) -> None:
    told_a, told_b = (terms_of({k: v.encode() for k, v in terms_keys(t).items()}) for t in (a, b))
    assert agree(a, told_b) == agree(b, told_a)
    chosen = agree(a, told_b)
    # What the acceptor publishes, read by the opener, gives the same again.
    told = Terms(b.format, chosen.dialect, chosen.ring_bytes, chosen.suppress)
    assert agree(a, terms_of({k: v.encode() for k, v in terms_keys(told).items()})) == chosen


@given(st.dictionaries(st.sampled_from(["format", "dialect", "ring-bytes", "suppress"]), st.binary(max_size=8)))
def test_whatever_a_peer_says_makes_terms(values: dict[str, bytes]) -> None:
    told = terms_of(values)
    assert told.format in ("erlang", "json") and (told.ring_bytes == 0 or told.own_kind)


@given(st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=100, unique=True))
def test_refs_in_one_value(refs: list[int]) -> None:
    packed = pack_refs(refs)
    if packed is not None:
        assert unpack_refs(packed.encode(), len(refs)) == tuple(refs)
        assert unpack_refs(packed.encode(), len(refs) + 1) is None


@given(st.text("0123456789,- ", max_size=40), st.integers(1, 300))
def test_hostile_refs(text: str, count: int) -> None:
    refs = unpack_refs(text.encode(), count)
    assert refs is None or len(set(refs)) == count


@given(st.dictionaries(st.sampled_from(STRAW_KIND.offer_keys), st.one_of(st.none(), st.binary(max_size=5))), terms)
def test_hostile_offers(values: dict[str, bytes | None], told: Terms) -> None:
    offer = STRAW_KIND.parse(values, told)
    assert offer is None or len(set(offer.refs)) == STRAW_KIND.pages(told)


# ── a peer that lies ──

_PATHS = st.sampled_from(
    ["/local/domain/1/data/straw/2", "/local/domain/2/data/straw/1", "/local/domain/2/data/warts/1"]
    + ["/local/domain/1/data/straw/3", "/local/domain/2/data/straw/3"]
)
_NAMES = st.sampled_from(
    ["state", "state", "state", "warts", "straw", "format", "dialect", "ring-bytes", "suppress", "ring-refs"]
    + ["ring-ref-1", "ring-ref-8", "event-channel", "x", ""]
)
_VALUES = st.sampled_from(
    [
        b"1",
        b"2",
        b"3",
        b"4",
        b"5",
        b"6",
        b"7",
        b"",
        b"04",
        b"-1",
        b"otp",
        b"json",
        b"4096",
        b"1048576",
        b"8-16",
        b"\xff\xfe",
    ]
    + [b"/local/domain/2/data/warts/1", b"/local/domain/1/data/straw/2", b"/local/domain/1/data/warts/2", b"9" * 2000]
)
LIES = st.lists(
    st.one_of(
        st.tuples(st.just("write"), _PATHS, _NAMES, _VALUES),
        st.tuples(st.just("remove"), _PATHS, _NAMES, st.just(b"")),
        st.tuples(st.just("perms"), _PATHS, _NAMES, st.sampled_from([b"n2", b"b2", b"r2", b"n0"])),
        st.tuples(st.just("map"), st.just(""), st.just(""), st.just(b"")),
        st.tuples(st.sampled_from(["open", "close", "steps", "settle"]), st.just(""), st.just(""), st.just(b"")),
    ),
    max_size=30,
)


@SLOW
@given(seed=st.integers(0, 2**32), honest_start=st.booleans(), lies=LIES)
def test_a_peer_that_lies(seed: int, honest_start: bool, lies: list[tuple[str, str, str, bytes]]) -> None:
    """It may get nothing, or a pore worth nothing; we answer in time, keep the rules and hold nothing at last."""
    world = World(seed)
    we = world.add(1)
    we.start()
    liar = world.add(2)
    liar.start()
    world.settle()
    if honest_start:
        liar.open(1)
        world.steps(seed % 60)
    session = world.tree.open(2)
    for deed, path, name, value in lies:
        where = f"{path}/{name}" if name else path
        try:
            if deed == "write":
                session.write(where, value)
            elif deed == "remove":
                session.remove(where)
            elif deed == "perms":
                session.set_perms(where, [value.decode()])
        except Exception as error:
            assert type(error).__name__ == "XenstoreError"
        if deed == "map":
            for (granter, refs), peer in list(world.hypervisor.grants.items()):
                if peer == 2:
                    world.hypervisor.mapped[granter, refs] = 2  # and never unmapped
        elif deed == "open" and 2 not in we.asked:
            we.open(2)
        elif deed == "close":
            for key in we.connected(2):
                we.close(key)
        elif deed == "steps":
            world.steps(seed % 13)
        elif deed == "settle":
            world.settle(2)
    world.settle(30)
    assert not we.asked
    # It is over when it is dead at last.
    liar.die()
    world.settle(100)
    assert not we.machine.pores, [(pore.role, pore.state) for pore in we.machine.pores.values()]
    we.stop()
    world.settle(30)
    assert we.machine.state == "stopped" and not we.watches and not we.granted and not we.attached
