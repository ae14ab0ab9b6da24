"""AMD Quark's ONNX quantiser with its ready configuration `method`, its biases in float after `+float-bias`."""

import copy

import metered


def quantise(request):
    from onnxruntime.quantization import CalibrationDataReader
    from quark.onnx import Config, ModelQuantizer, QConfig

    class Reader(CalibrationDataReader):
        def __init__(self, arrays):
            self.feeds = metered.rows(arrays)

        def get_next(self):
            return next(self.feeds, None)

    arrays = metered.samples(request)
    name, _, biases = request["method"].partition("+")
    config = copy.deepcopy(QConfig.get_default_config(name))
    if not isinstance(config, (Config, QConfig)):
        config = Config(global_quant_config=config)
    if biases:
        config.global_quant_config.extra_options["QuantizeBias"] = False
    quantiser = ModelQuantizer(config)

    def call():
        quantiser.quantize_model(request["model"], request["output"], Reader(arrays))

    return call


if __name__ == "__main__":
    metered.main(quantise)
