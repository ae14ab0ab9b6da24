"""This project's quantiser, from the model's file to the Q/DQ file, reading its samples raw and while it runs."""

from pathlib import Path

import metered


def quantise(request):
    from edge_sdk.engines import ort
    from edge_sdk.host.calibrate import choose, collect, data
    from edge_sdk.host.calibrate.samples import Classes
    from edge_sdk.host.graph import clean, model, placement, qdq
    from edge_sdk.host.judge import gate
    from edge_sdk.records.bundle import Preprocess

    rules = {name: Preprocess(**rule) for name, rule in request["preprocess"].items()}
    method = request["method"]

    def call():
        read = model.read_model(Path(request["model"]))
        unused = Classes(is_used=False)
        samples = data.open_data(Path(request["raw"]), read.inputs, preprocess=rules, classes=unused)
        probe = {name: values[:2].copy() for name, values in next(samples.batches()).feeds.items()}
        graph = clean.cleaned(read, probe)
        placed = placement.placement_from_model(graph)
        wanted = [name for name in placed.tensors if name not in {spec.name for spec in graph.inputs}]
        collected = collect.collected(
            ort.runner_from_model(qdq.with_outputs(graph, wanted), wanted),
            placed.tensors,
            samples.batches(),
            hold_out=method == choose.AUTO,
        )
        run_float = ort.runner_from_model(graph.to_bytes())
        references = [(feeds, run_float(feeds)) for feeds in collected.held_feeds]

        def written(ranges):
            return qdq.quantized_model(graph, placed, {name: found.scale for name, found in ranges.items()}).to_bytes()

        def sqnr_of(ranges):
            return gate.worst_sqnr_db(ort.runner_from_model(written(ranges)), references, graph.outputs)

        choice = choose.chosen(collected, method, sqnr_of)
        Path(request["output"]).write_bytes(written(choice.ranges))
        return {"method": choice.method, "samples": len(collected.digests)}

    return call


if __name__ == "__main__":
    metered.main(quantise)
