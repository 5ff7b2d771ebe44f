"""One engine pod: `python -m weft_playground.engine_pod --model=M --name=$(POD_NAME) --address=$(POD_IP)`.

Serves what `engine_server` describes on port 8000 of every address of its own network namespace. On SIGTERM it ends
what it has, as vLLM does, and what still comes in a moment later, and then itself.
"""

from __future__ import annotations

import argparse
import asyncio

import uvloop

from weft_playground.engine_server import PORT, EngineServer
from weft_playground.kv_caches import KVCaches
from weft_playground.lag import LagMeter
from weft_playground.processes import until_stopped
from weft_playground.profile import SpeedError, read_profile, replica_number, speed_error

LINGER_SECONDS = 2.0
"""Between SIGTERM and its effect: routers hear of a pod's end about when the pod does, and requests are on their way.
Where vLLM runs, a preStop hook sleeps as long."""


async def serve(name: str, address: str, model_name: str, error: SpeedError, grace_seconds: float) -> None:
    """Until a signal; then at most `grace_seconds` for the requests under way."""
    caches = KVCaches((address, PORT))
    engine = EngineServer(name, model_name, read_profile(), error, caches, LagMeter())
    await engine.start("0.0.0.0", PORT)
    await until_stopped(asyncio.Event().wait())
    await asyncio.sleep(LINGER_SECONDS)
    await engine.drain(grace_seconds)
    await engine.stop()
    await caches.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--model", required=True, help="the name under which the model is served")
    parser.add_argument("--name", required=True, help="the pod's name; its last number is the replica's")
    parser.add_argument("--address", required=True, help="at which other pods reach this one")
    parser.add_argument("--seed", type=int, help="of the true speeds; absent: just the profile's")
    parser.add_argument("--grace-seconds", type=float, default=25.0)
    arguments = parser.parse_args()
    error = SpeedError()
    if arguments.seed is not None:
        error = speed_error(arguments.seed, replica_number(arguments.name))
    uvloop.run(serve(arguments.name, arguments.address, arguments.model, error, arguments.grace_seconds))


if __name__ == "__main__":
    main()
