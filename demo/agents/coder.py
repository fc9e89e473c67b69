"""The coder: takes the researcher's notes, writes a function, and hands it to the reviewer."""

import swarm

ID = "spiffe://example.org/agent/{}".format

MEDIAN = """
def median(numbers):
    ordered, middle = sorted(numbers), len(numbers) // 2
    return ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2
"""


def main():
    source = swarm.identity()
    reviewer = {}

    def take(work):
        swarm.hand_over(source, reviewer["address"], ID("reviewer"), {**work, "code": MEDIAN})

    swarm.serve(source, ID("researcher"), take)
    for order in swarm.orders():
        if order["do"] == "expect work":
            reviewer["address"] = order["reviewer"]
            swarm.tell("ready")


main()
