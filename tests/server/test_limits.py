"""What a server does when there is too much to do, when clients leave, and when it is told to end."""

from __future__ import annotations

import asyncio
import gc
import json
import signal
import socket
import time
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx2
import numpy as np
import pytest
from starlette.types import Message

from mlx_jina import Encoder, InputError, catalog
from mlx_jina.server import app, serve
from mlx_jina.server.engine import Engine
from mlx_jina.server.errors import ApiError
from mlx_jina.server.model_store import ModelStore
from tests.support.process import Server
from tests.support.tolerance import bound

# Some work in many pieces, and some in one.
BULK = ["bread water flour salt " * 20] * 16
LONG = ["bread water flour salt " * 2000]


def wait_for(condition: Callable[[], bool], seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def under_way(server: Server) -> float:
    return server.metric("requests_under_way")


class TestOverload:
    def test_more_than_fits_gets_503_and_a_time_to_come_back(self) -> None:
        # Of four bytes each.
        tokens = 2 * (len(json.dumps({"input": BULK}, separators=(",", ":"))) // 4 + 1) + 3
        with Server("--preload", "--max-waiting", tokens / 1e6) as server, ThreadPoolExecutor(2) as clients:
            accepted = [clients.submit(server.embed, BULK) for _ in range(2)]
            wait_for(lambda: under_way(server) == 2)
            refused = server.embed("one too many")
            assert refused.status_code == 503
            assert refused.json()["error"]["code"] == "overloaded"
            assert 1 <= int(refused.headers["Retry-After"]) <= 60
            assert server.client.get("/health").status_code == 200
            assert [one.result().status_code for one in accepted] == [200, 200]
            assert server.embed("now there is room").status_code == 200

    def test_who_hangs_up_frees_the_place_and_the_machine(self) -> None:
        with Server("--preload", "--max-waiting", "0.000001") as server:
            with pytest.raises(httpx2.ReadTimeout):
                server.client.post("/v1/embeddings", json={"input": LONG}, timeout=0.1)
            wait_for(lambda: under_way(server) == 0)
            assert server.embed("next").status_code == 200
            assert server.metric("hung_up_total") == 1
            assert server.metric("tokens_total") < 100
            assert server.metric("waiting_tokens") == 0

    @pytest.mark.slow
    def test_who_reads_nothing_loses_the_answer(self) -> None:
        body = json.dumps({"input": ["a"] * 2048}).encode()
        head = f"POST /v1/embeddings HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
        with Server("--preload") as server, socket.create_connection(("127.0.0.1", server.port)) as client:
            client.sendall(head.encode() + body)
            wait_for(lambda: server.metric("texts_total") == 2048 and under_way(server) == 0)
            assert server.metric("hung_up_total") == 0
            wait_for(lambda: server.metric("hung_up_total") == 1, 3 * serve.CLIENT_SECONDS)
            assert server.embed("next").status_code == 200


class TestEnd:
    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
    def test_what_is_in_flight_is_answered_first(self, pocket: Encoder, number: int) -> None:
        with Server("--preload") as server, ThreadPoolExecutor(1) as client:
            answer = client.submit(server.embed, BULK)
            wait_for(lambda: under_way(server) == 1)
            assert server.stop(number) == 0
            assert answer.result().status_code == 200
            got = answer.result().json()["data"][-1]["embedding"]
            np.testing.assert_allclose(got, pocket.encode(BULK[0]), atol=bound(1e-6))
            assert server.log.endswith("INFO stopped\n")
            assert "Traceback" not in server.log

    def test_after_kill_9_another_takes_over(self, pocket: Encoder) -> None:
        with Server("--preload") as server, ThreadPoolExecutor(4) as clients:
            answers = [clients.submit(server.embed, LONG) for _ in range(4)]
            wait_for(lambda: under_way(server) == 4)
            server.stop(signal.SIGKILL)
            for answer in answers:
                with pytest.raises(httpx2.TransportError):
                    answer.result()
            with Server("--preload", port=server.port) as again:
                got = again.embed("at once").json()["data"][0]["embedding"]
                np.testing.assert_allclose(got, pocket.encode("at once"), atol=bound(1e-6))


def test_the_log_never_holds_texts(server: Server) -> None:
    for content in ('{"input": "sekret"}', '{"input": "sekret', '{"input": ["sekret", 7]}', '{"model": "sekret"}'):
        server.client.post("/v1/embeddings", content=content)
    server.embed("sekret", model="tiny", task="sekret")
    assert "sekret" not in server.log


class TestLibrary:
    def test_the_least_recently_used_makes_room(self, folder: Path, pocket: Encoder, tiny: Encoder) -> None:
        async def work() -> list[list[str]]:
            store = ModelStore(["pocket", f"a={folder}", f"b={folder}"], max_memory=pocket.nbytes + tiny.nbytes)
            seen = []
            for name in ("a", "pocket", "a", "b", "pocket"):
                model, _ = await store.find(name)
                async with store.using(model):
                    seen.append([model.name for model in store.in_memory()])
            return seen

        assert asyncio.run(work()) == [["a"], ["pocket", "a"], ["pocket", "a"], ["a", "b"], ["pocket", "b"]]

    def test_what_is_in_use_stays(self, folder: Path, pocket: Encoder) -> None:
        async def work() -> None:
            store = ModelStore(["pocket", f"tiny={folder}"], max_memory=pocket.nbytes)
            async with store.using(store.default):
                tiny, _ = await store.find("tiny")
                with pytest.raises(ApiError, match="no room for model 'tiny' while others are in use"):
                    async with store.using(tiny):
                        pass
                assert store.default.loaded

        asyncio.run(work())

    def test_what_never_fits_is_refused(self) -> None:
        async def work() -> None:
            store = ModelStore(["pocket"], max_memory=1000)
            async with store.using(store.default):
                pass

        with pytest.raises(ApiError, match=r"'pocket' takes \d+ MB, and this server may use 0 MB"):
            asyncio.run(work())

    def test_idle_models_are_unloaded(self) -> None:
        async def never() -> Message:
            return await asyncio.get_running_loop().create_future()

        async def work() -> None:
            store = ModelStore(["pocket"], keep_alive=0.01)
            async with store.using(store.default) as loaded:
                encoder = weakref.ref(loaded.encoder)
            del loaded
            # Also after one that was refused, whose frames hold what they used.
            with pytest.raises(ApiError):
                await app._while_connected(Engine(store).embed(["a"], dimensions=3), never)
            idle = asyncio.create_task(store.unload_idle())
            while encoder() is not None:
                await asyncio.sleep(0.01)
            idle.cancel()
            assert store.bytes_in_memory() == 0
            async with store.using(store.default) as again:
                assert again.encoder.encode("a").shape == (256,)

        gc.disable()
        try:
            asyncio.run(asyncio.wait_for(work(), 30))
        finally:
            gc.enable()

    def test_a_load_that_nobody_waited_for_is_kept(self) -> None:
        async def work() -> None:
            store = ModelStore(["pocket"])

            async def one() -> None:
                async with store.using(store.default):
                    raise AssertionError("it cannot be loaded yet")

            impatient = asyncio.create_task(one())
            await asyncio.sleep(0)
            loading = store.default.loading
            impatient.cancel()
            with pytest.raises(asyncio.CancelledError):
                await impatient
            assert loading is not None
            loaded = await loading
            assert store.default.loaded is loaded

        asyncio.run(asyncio.wait_for(work(), 30))

    def test_a_dtype_that_the_model_cannot_take_is_said(self, folder: Path) -> None:
        async def work() -> None:
            store = ModelStore([str(folder)], dtype="float16")
            async with store.using(store.default):
                pass

        with pytest.raises(ApiError, match="use 'bfloat16'"):
            asyncio.run(work())

    def test_requests_at_once_load_once(self) -> None:
        async def work() -> None:
            store = ModelStore(["pocket"])

            async def one() -> object:
                async with store.using(store.default) as loaded:
                    return loaded

            first, second, _ = await asyncio.gather(one(), one(), one())
            assert first is second

        asyncio.run(work())

    def test_a_request_never_names_a_path(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(folder.parent)

        async def work(name: str) -> None:
            await ModelStore(["pocket"]).find(name)

        for name in (str(folder), folder.name, f"./{folder.name}", f"{folder.parent.name}/{folder.name}"):
            with pytest.raises(ApiError, match="is not on this server"):
                asyncio.run(work(name))

    def test_names_of_the_command_line_stay_theirs(self, folder: Path) -> None:
        async def work() -> None:
            store = ModelStore([f"pocket={folder}"])
            own, _ = await store.find("pocket")
            listed = {model.name: model.source for model in await store.available()}
            assert listed["pocket"] == str(folder)
            assert listed["pocket-embedding"] == "pocket"
            assert (await store.find("pocket"))[0] is own is store.default
            assert (await store.find("pocket-embedding"))[0].source == "pocket"

        asyncio.run(work())

    def test_two_of_one_name_are_refused(self, folder: Path) -> None:
        with pytest.raises(InputError, match=rf"would both be called 'small'; .* ALIAS={folder}"):
            ModelStore([str(folder), str(folder)])

    def test_paths_may_have_an_equals_sign(self, folder: Path, tmp_path: Path) -> None:
        (tmp_path / "d=1").mkdir()
        odd = tmp_path / "d=1" / "m"
        odd.symlink_to(folder)
        assert ModelStore([str(odd)]).default.source == str(odd)
        named = ModelStore([f"al={odd}"]).default
        assert (named.name, named.source) == ("al", str(odd))

    def test_names_of_the_catalog_are_one_model(self, folder: Path) -> None:
        async def work() -> None:
            entry = catalog.find("v5-small")
            assert entry
            store = ModelStore(["pocket", "v5-small"])
            for name in (entry.repo, *entry.aliases, "V5-Small"):
                assert (await store.find(name))[0].name == "v5-small"
            assert (await store.find(""))[0].name == "pocket"
            assert (await store.find("v5-small:retrieval.query"))[1] == "retrieval.query"

        asyncio.run(work())


def test_the_openapi_document_names_every_route(server: Server) -> None:
    document = server.client.get("/openapi.json").json()
    assert {"/v1/embeddings", "/v1/models"} <= {*document["paths"]}
    fields = document["components"]["schemas"]["EmbeddingsRequest"]["properties"]
    assert {"input", "model", "task", "dimensions", "encoding_format", "embedding_type"} <= {*fields}
    assert json.dumps(document)


class TestClientsThatSendEveryTextAlone:
    """As Open WebUI does by default, all at once."""

    def test_hundreds_at_once(self, pocket: Encoder) -> None:
        texts = [f"note {i}: bread water flour salt" for i in range(300)]

        async def work(server: Server) -> list[httpx2.Response]:
            limits = httpx2.Limits(max_connections=None)
            async with httpx2.AsyncClient(base_url=server.url, timeout=120, limits=limits) as client:
                return await asyncio.gather(
                    *(client.post("/v1/embeddings", json={"input": text}) for text in texts)
                )

        with Server("--preload") as server:
            answers = asyncio.run(work(server))
            assert {answer.status_code for answer in answers} == {200}
            got = [answer.json()["data"][0]["embedding"] for answer in answers]
            np.testing.assert_allclose(got, pocket.encode(texts), atol=bound(1e-5))

    def test_a_body_that_has_not_arrived_takes_no_place(self) -> None:
        head = b"POST /v1/embeddings HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n"
        with Server("--preload", "--max-waiting", "0.000001") as server:
            slow = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(10)]
            for client in slow:
                client.sendall(head + b'{"input"')
            for _ in range(3):
                assert server.embed("bread").status_code == 200
            for client in slow:
                client.close()
