"""ONNX Runtime's quantize_static: as it comes (`default`), or symmetric, per channel and without INT32 biases."""

import metered


def quantise(request):
    import onnxruntime.quantization as ortq

    class Reader(ortq.CalibrationDataReader):
        def __init__(self, arrays):
            self.feeds = metered.rows(arrays)

        def get_next(self):
            return next(self.feeds, None)

    legal = {
        "activation_type": ortq.QuantType.QInt8,
        "weight_type": ortq.QuantType.QInt8,
        "per_channel": True,
        "extra_options": {"ActivationSymmetric": True, "WeightSymmetric": True, "QuantizeBias": False},
    }
    arrays = metered.samples(request)
    method = request["method"]
    if method == "default":
        settings = {}
    else:
        settings = {**legal, "calibrate_method": getattr(ortq.CalibrationMethod, method)}
    return lambda: ortq.quantize_static(request["model"], request["output"], Reader(arrays), **settings)


if __name__ == "__main__":
    metered.main(quantise)
