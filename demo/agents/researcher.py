"""The researcher: starts the work, hands it to the coder, and gets the result from the reviewer."""

import swarm

ID = "spiffe://example.org/agent/{}".format


def main():
    source = swarm.identity()
    swarm.serve(source, ID("reviewer"), lambda work: swarm.tell("result", work=work))
    for order in swarm.orders():
        if order["do"] == "start":
            work = {
                "question": "how far apart is the middle of a list from its mean?",
                "notes": "the median is the middle of the sorted list, or the mean of its two middles",
                "examples": [[[1, 2, 9], 2], [[4, 1, 3, 2], 2.5], [[7], 7]],
            }
            swarm.hand_over(source, order["coder"], ID("coder"), work)
        elif order["do"] == "skip the coder":
            swarm.hand_over(source, order["reviewer"], ID("reviewer"), {"code": "lambda numbers: 0"})


main()
