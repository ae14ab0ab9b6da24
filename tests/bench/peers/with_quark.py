"""AMD Quark's ONNX quantiser, with the ready configuration in `method`."""

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
    config = QConfig.get_default_config(request["method"])
    if not isinstance(config, (Config, QConfig)):
        config = Config(global_quant_config=config)
    quantiser = ModelQuantizer(config)

    def call():
        quantiser.quantize_model(request["model"], request["output"], Reader(arrays))

    return call


if __name__ == "__main__":
    metered.main(quantise)
