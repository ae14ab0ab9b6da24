"""NNCF's post-training quantisation of ONNX, with the preset in `method`."""

import metered


def quantise(request):
    import nncf
    import onnx

    model = onnx.load(request["model"])
    feeds = list(metered.rows(metered.samples(request)))
    preset = getattr(nncf.QuantizationPreset, request["method"])

    def call():
        made = nncf.quantize(model, nncf.Dataset(feeds), preset=preset, subset_size=len(feeds))
        onnx.save(made, request["output"])

    return call


if __name__ == "__main__":
    metered.main(quantise)
