"""NVIDIA Model Optimizer, on the CPU, with what is not INT8 left in float32."""

import metered


def quantise(request):
    from modelopt.onnx.quantization import quantize

    arrays = metered.samples(request)
    return lambda: quantize(
        request["model"],
        quantize_mode="int8",
        calibration_data=arrays,
        calibration_method=request["method"],
        calibration_eps=["cpu"],
        high_precision_dtype="fp32",
        output_path=request["output"],
    )


if __name__ == "__main__":
    metered.main(quantise)
