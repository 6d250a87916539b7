"""``LruCache``: what was used last is held, within a limit."""

import random
from collections import OrderedDict

from inpaint.lru import LruCache


def test_the_value_unused_for_longest_goes_first() -> None:
    """Reading counts as using."""
    cache: LruCache[str, int] = LruCache(2)
    cache.put("a", 1)
    cache.put("b", 2)
    assert cache.get("a") == 1
    cache.put("c", 3)
    assert (cache.get("a"), cache.get("b"), cache.get("c")) == (1, None, 3)


def test_a_value_that_is_put_again_is_replaced_and_measured_again() -> None:
    """A file that was rewritten takes the place of what it held before."""
    cache: LruCache[str, str] = LruCache(5, len)
    cache.put("a", "xxxx")
    cache.put("a", "x")
    cache.put("b", "yyyy")
    assert (cache.get("a"), cache.get("b")) == ("x", "yyyy")


def test_a_value_larger_than_the_limit_is_not_held() -> None:
    """The limit is a promise about memory; 0 turns a cache off."""
    cache: LruCache[str, str] = LruCache(3, len)
    cache.put("a", "xx")
    cache.put("b", "yyyy")
    assert (cache.get("a"), cache.get("b")) == (None, None)
    off: LruCache[str, int] = LruCache(0)
    off.put("a", 1)
    assert off.get("a") is None


def test_any_sequence_of_uses_keeps_within_the_limit() -> None:
    """Compared with a plain list of what was used, newest last."""
    rng = random.Random(5)
    cache: LruCache[int, bytes] = LruCache(40, len)
    used: OrderedDict[int, bytes] = OrderedDict()
    for _ in range(2000):
        key = rng.randrange(12)
        if rng.random() < 0.5:
            value = cache.get(key)
            assert value == used.get(key)
            if value is not None:
                used.move_to_end(key)
        else:
            value = bytes(rng.randrange(20))
            cache.put(key, value)
            used[key] = value
            used.move_to_end(key)
            while sum(map(len, used.values())) > 40:
                used.popitem(last=False)
