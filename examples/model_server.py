"""A model behind a GenServer: prediction is blocking code, and the node stays quick while it runs.

``def`` methods (not ``async def``) run in a worker thread, one message at a time per process; the loop goes on with
ticks and other processes meanwhile. Here the model is a nearest-centroid classifier in plain Python; put yours there.

    STRAWBRIDGE_COOKIE=secret strawbridge run examples/model_server.py:app --name py@127.0.0.1

    1> gen_server:call({model, 'py@127.0.0.1'}, {predict, [[0.1, 0.2], [9.0, 8.5]]}).
    [<<"small">>,<<"large">>]
"""

import math

from node import Atom, GenServer, Node

TRAINING = {
    "small": [[0.0, 0.0], [1.0, 0.5], [0.5, 1.0]],
    "large": [[8.0, 8.0], [9.0, 9.5], [10.0, 9.0]],
}


class Model(GenServer):
    def init(self, training):
        self.centroids = {
            label: [sum(column) / len(points) for column in zip(*points, strict=True)]
            for label, points in training.items()
        }
        self.served = 0

    def handle_call(self, request, caller):
        match request:
            case tuple((Atom("predict"), list(rows))):
                self.served += len(rows)
                return [self.nearest(row) for row in rows]  # a str arrives as a UTF-8 binary
            case Atom("served"):
                return self.served
            case _:
                return (Atom("error"), Atom("unknown_request"))

    def nearest(self, row):
        return min(self.centroids, key=lambda label: math.dist(row, self.centroids[label]))


def app(node: Node) -> None:
    node.register("model", Model, TRAINING, restart="permanent")
