import asyncio

import pytest

from asyncprefetch import AsyncPrefetcher
from asyncprefetch.__main__ import main
from tests.conftest import inline
from tests.consumer import take
from tests.inside import ledger_of, shard
from tests.pipelines.counting import Count
from tests.pipelines.failing import Fail


@pytest.mark.both_loops
async def test_show_prints_the_content_of_a_checkpoint(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(shard, "_MIN_STATE_INTERVAL", 3600)
    pipeline = [Count(2), Fail.make(9, 4, "KeyError")]
    async with AsyncPrefetcher(pipeline, n_batches_to_prefetch=4, num_workers=1, workers=inline) as loader:
        assert await take(loader, 5) == [0, 0, 1, 1, 2]
        while ledger_of(loader, 1).position < 4:
            await asyncio.sleep(0)
        await (await loader.get_state()).save(tmp_path / "state")
    assert main(["show", str(tmp_path / "state")]) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[0].startswith(
        "asyncprefetch state, version 1: 5 batches delivered, 1 buffered (0 bytes of arrays), 2 of 2"
    )
    assert out[1:] == [
        "  shard 0: tests.count version 1, 2 delivered, 0 buffered, at its end",
        "  shard 1: tests.fail version 1, 3 delivered, 1 buffered, 4 to skip",
    ]


def test_show_says_what_is_wrong_with_a_file(tmp_path, capsys):
    (tmp_path / "state").write_bytes(b"nonsense")
    assert main(["show", str(tmp_path / "state")]) == 1
    assert "safetensors" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main([])
