"""The float model over the samples once, and nothing else: opening it and running it, as every quantiser must."""

from pathlib import Path

import metered

BATCH = 32


def quantise(request):
    import onnxruntime

    arrays = metered.samples(request)

    def call():
        session = onnxruntime.InferenceSession(request["model"], providers=["CPUExecutionProvider"])
        batch = 1 if isinstance(session.get_inputs()[0].shape[0], int) else BATCH
        for start in range(0, request["count"], batch):
            session.run(None, {name: values[start : start + batch] for name, values in arrays.items()})
        Path(request["output"]).touch()  # there is no quantised model

    return call


if __name__ == "__main__":
    metered.main(quantise)
