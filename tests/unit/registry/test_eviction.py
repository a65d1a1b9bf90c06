"""How much connections take, and whose turn it is to give way."""

import sys
from dataclasses import dataclass, field

from hypothesis import given
from hypothesis import strategies as st

from fastapi_websocket_stabilizer.registry.eviction import EvictionOrder, measure


def test_measure_counts_the_id_both_dicts_and_one_level_of_them() -> None:
    metadata, user_data = {"name": "alice"}, {"score": 10**30}
    things = ["id", metadata, "name", "alice", user_data, "score", 10**30]
    assert measure("id", metadata, user_data) == sum(map(sys.getsizeof, things))


def test_measure_grows_with_what_is_stored() -> None:
    assert measure("id", {}, {"a": "x" * 1000}) - measure("id", {}, {"a": ""}) >= 1000


@dataclass
class Population:
    """Names and ages; one of them may be kept."""

    ages: dict[str, int] = field(default_factory=dict)
    keep: str = ""
    order: EvictionOrder[str] = field(default_factory=EvictionOrder)
    walks: int = 0

    def live(self) -> list[str]:
        self.walks += 1
        return list(self.ages)

    def next(self) -> str | None:
        return self.order.next(
            self.live,
            lambda name: name in self.ages,
            lambda name: self.ages.get(name, -1),
            next((name for name in self.ages if name == self.keep), None),
        )

    def evict(self, keep: str = "") -> str | None:
        self.keep = keep
        victim = self.next()
        self.ages.pop(str(victim), None)
        return victim


def test_the_one_used_longest_ago_gives_way() -> None:
    population = Population({"a": 3, "b": 1, "c": 2})
    assert [population.evict() for _ in range(4)] == ["b", "c", "a", None]


def test_the_one_that_came_first_gives_way_among_equals() -> None:
    population = Population({"c": 1, "a": 1, "b": 1})
    assert [population.evict() for _ in range(3)] == ["c", "a", "b"]


def test_use_saves_a_connection() -> None:
    population = Population({"a": 1, "b": 2, "c": 3})
    population.evict()
    population.ages["b"] = 4
    assert [population.evict(), population.evict()] == ["c", "b"]


def test_many_questions_need_one_walk() -> None:
    population = Population({str(i): i for i in range(100)})
    victims = [population.evict() for _ in range(100)]
    assert (victims, population.walks) == ([str(i) for i in range(100)], 1)


def test_kept_connection_does_not_give_way_even_alone() -> None:
    assert Population({"a": 1}).evict(keep="a") is None


def test_connection_that_was_kept_once_is_the_next_to_give_way() -> None:
    population = Population({"a": 1, "b": 2, "c": 3})
    assert [population.evict(keep="a"), population.evict()] == ["b", "a"]


steps = st.one_of(
    st.tuples(st.sampled_from(["use", "leave", "evict but keep"]), st.sampled_from("abcd")),
    st.just(("evict", "")),
)


@given(st.lists(steps, max_size=20))
def test_victim_is_always_the_oldest_that_may_go(actions: list[tuple[str, str]]) -> None:
    population = Population({name: age for age, name in enumerate("abcd")})
    for now, (action, name) in enumerate(actions, start=4):
        if action == "use":
            population.ages[name] = now
        elif action == "leave":
            population.ages.pop(name, None)
        else:
            may_go = {n: age for n, age in population.ages.items() if n != name}
            assert population.evict(keep=name) == min(may_go, key=may_go.__getitem__, default=None)
