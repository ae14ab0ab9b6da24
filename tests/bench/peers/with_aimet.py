"""Qualcomm AIMET's simulation, calibrated with the scheme in `method` and written as Q/DQ."""

import metered


def quantise(request):
    import onnx
    from aimet_onnx import quantsim

    model = onnx.load(request["model"])
    feeds = list(metered.rows(metered.samples(request)))

    def call():
        simulation = quantsim.QuantizationSimModel(
            model, quant_scheme=request["method"], providers=["CPUExecutionProvider"]
        )
        simulation.compute_encodings(feeds)
        onnx.save(simulation.to_onnx_qdq(), request["output"])

    return call


if __name__ == "__main__":
    metered.main(quantise)
