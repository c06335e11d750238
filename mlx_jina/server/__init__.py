"""`mlx-jina serve`: the encoder over HTTP, in the dialects that existing clients speak.

    request -> access -> app -> dialect -> engine -> scheduler -> model
                                       <- vectors

- `access.py` refuses foreign hosts and origins, `app.py` reads and checks bodies, watches for clients that
  hang up, and turns errors into answers.
- A dialect is one file that knows a client's requests and answers and nothing else. It has the request's
  schema (a `Body`, whose fields are checked by pydantic and shown in /openapi.json), async handlers that call
  `Engine.embed` and shape the answer, the error body its clients read, and `ENDPOINTS`, one `Endpoint` for
  each route. To add one, write that file and name it in `app.DIALECTS`; tests/server/ has one file for each.

        class EmbedRequest(Body):
            model: str
            input: Texts

        async def embed(engine: Engine, body: EmbedRequest) -> Reply:
            done = await engine.embed(body.input, body.model, truncate=True)
            return Reply({"embeddings": done.vectors}, done)

        ENDPOINTS = (Endpoint("POST", "/api/embed", embed, error_body, EmbedRequest),)

- `engine.py` is what handlers call: names to loaded models (`model_store.py`), texts to vectors.
"""
