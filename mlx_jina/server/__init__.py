"""`mlx-jina serve`: the encoder over HTTP, in the dialects that existing clients speak.

    request -> connection -> access -> app -> dialect -> engine -> scheduler -> model
                                                     <- vectors

- `connections.py` and `timeouts.py` bound connections, the heads of requests, and how long clients take.
- `access.py` refuses foreign hosts and origins, `app.py` reads and checks bodies, watches for clients that
  hang up, and turns errors into answers.
- A dialect is one file that knows a client's requests and answers and nothing else. The file has the request's
  schema (an `EmbedBody`, whose fields are checked by pydantic and shown in /openapi.json), async handlers that
  call `Engine.embed` and shape the answer, the error body that clients read, and `ENDPOINTS`, one `Endpoint` for
  each route. To add a dialect, write such a file and name it in `app.DIALECTS`; docs/architecture.md has the
  steps.

        class EmbedRequest(EmbedBody):
            input: SomeTexts

        async def embed(engine: Engine, body: EmbedRequest) -> Reply:
            done = await engine.embed(body.input, body.model, **body.options())
            return Reply({"embeddings": done.vectors}, done)

        ENDPOINTS = (Endpoint("POST", "/api/embed", embed, error_body, EmbedRequest),)

- Handlers call `engine.py`, which turns names into loaded models (`model_store.py`) and texts into vectors.
"""
