"""Passes Dynamo's events on, `python broker.py PORT_IN PORT_OUT`; runs in Dynamo's own environment.

Without a broker every worker would listen for subscribers on all of the machine's addresses.
"""

import sys

import zmq


def main(port_in: str, port_out: str) -> None:
    context = zmq.Context()
    publishers, subscribers = context.socket(zmq.XSUB), context.socket(zmq.XPUB)
    publishers.bind(f"tcp://127.0.0.1:{port_in}")
    subscribers.bind(f"tcp://127.0.0.1:{port_out}")
    zmq.proxy(publishers, subscribers)


if __name__ == "__main__":
    main(*sys.argv[1:])
