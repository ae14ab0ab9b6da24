"""Writes the models for the tests of conversion from TensorFlow into a folder: ``python convert_tensorflow_models.py DIR``.

A program of its own, since TensorFlow warns of itself when it is imported.
"""

import sys
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf


def image_net():
    """conv, batch norm, ReLU6, depthwise conv, swish, a residual, pooling, softmax, on [N, 16, 16, 3]."""
    images = keras.Input((16, 16, 3), name="images")
    x = keras.layers.Conv2D(64, 3, strides=2, padding="same", use_bias=False)(images)
    x = keras.layers.ReLU(6.0)(keras.layers.BatchNormalization()(x))
    x = keras.layers.Activation("swish")(keras.layers.DepthwiseConv2D(3, padding="same")(x))
    x = keras.layers.Add()([x, keras.layers.Conv2D(64, 1)(x)])
    x = keras.layers.GlobalAveragePooling2D()(x)
    return keras.Model(images, keras.layers.Dense(5, activation="softmax", name="scores")(x))


def two_by_two():
    """Two inputs, two outputs, no image."""
    one, two = keras.Input((8,), name="one"), keras.Input((4,), name="two")
    both = keras.layers.Concatenate()([one, two])
    return keras.Model(
        [one, two], [keras.layers.Dense(3, name="left")(both), keras.layers.Dense(2, name="right")(both)]
    )


def tflite(model, *, optimize=False, **settings):
    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    converter.optimizations = [tf.lite.Optimize.DEFAULT] if optimize else []
    for name, value in settings.items():
        setattr(converter, name, value)
    return converter.convert()


def samples():
    for seed in range(8):
        yield [np.random.default_rng(seed).random((1, 16, 16, 3), np.float32)]


def main(folder):
    keras.utils.set_random_seed(0)
    net = image_net()
    net.save(folder / "net.keras")
    net.save(folder / "net.h5")
    net.export(folder / "net_saved")
    two_by_two().save(folder / "two.keras")
    (folder / "net.tflite").write_bytes(tflite(net))
    (folder / "dynamic.tflite").write_bytes(tflite(net, optimize=True))
    (folder / "int8.tflite").write_bytes(tflite(net, optimize=True, representative_dataset=samples))
    half = tf.lite.TargetSpec(supported_types=[tf.float16])
    (folder / "half.tflite").write_bytes(tflite(net, optimize=True, target_spec=half))
    given = keras.Input((4,))
    lambdas = keras.Model(given, keras.layers.Lambda(lambda x: x * 2)(given))
    lambdas.save(folder / "lambda.keras")
    lambdas.save(folder / "lambda.h5")
    keras.Sequential([keras.layers.Dense(2)]).save(folder / "unbuilt.keras")

    class Writes(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec([None, 4], tf.float32, name="x")])
        def serve(self, x):
            tf.io.write_file(str(folder / "pwned"), "written by a model")
            return {"y": x}

    module = Writes()
    tf.saved_model.save(module, str(folder / "writes_saved"), signatures=module.serve)
    (folder / "pwned").unlink(missing_ok=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
