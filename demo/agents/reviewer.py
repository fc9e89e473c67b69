"""The reviewer: takes the coder's function, tries it on the researcher's examples, and sends the verdict back."""

import swarm

ID = "spiffe://example.org/agent/{}".format


def review(work):
    names = {}
    exec(work["code"], names)  # from the coder alone: mTLS let nobody else in
    right = sum(names["median"](numbers) == wanted for numbers, wanted in work["examples"])
    return {**work, "verdict": f"{right} of {len(work['examples'])} examples come out right"}


def main():
    source = swarm.identity()
    researcher = {}

    def take(work):
        swarm.hand_over(source, researcher["address"], ID("researcher"), review(work))

    swarm.serve(source, ID("coder"), take)
    for order in swarm.orders():
        if order["do"] == "expect work":
            researcher["address"] = order["researcher"]
            swarm.tell("ready")


main()
