"""An inference model -> what the converter of paddle_serving_client 0.9.0 makes of it, with its own code.

    python tests/recorded/convert.py INFERENCE_MODEL converted    # Python 3.8, paddlepaddle 2.6.2, paddle-serving-client

The converter imports ``paddle.fluid``, which Paddle gave up with 2.6: the modules are put back under that name here. The
tracebacks that Paddle writes into a program are taken out, for they hold the paths of a machine. The parameters are those
of the inference model, byte for byte, and are not kept.
"""

import sys
import types
from pathlib import Path

import charset_normalizer  # noqa: F401  (its import fails once Paddle has been imported)
import paddle
import paddle.base
import paddle.static.io


def put_fluid_back():
    """``paddle.fluid``, made of what became of it."""
    fluid, io = types.ModuleType("paddle.fluid"), types.ModuleType("paddle.fluid.io")
    fluid.__dict__.update({name: value for name, value in vars(paddle.base).items() if not name.startswith("__")})
    io.prepend_feed_ops, io.append_fetch_ops = paddle.static.io.prepend_feed_ops, paddle.static.io.append_fetch_ops
    io.load_inference_model = lambda dirname, executor, **files: paddle.static.load_inference_model(
        dirname, executor, **files
    )
    fluid.io = io
    for name in [name for name in sys.modules if name.startswith("paddle.base.")]:
        sys.modules[name.replace("paddle.base.", "paddle.fluid.", 1)] = sys.modules[name]
    sys.modules.update({"paddle.fluid": fluid, "paddle.fluid.io": io})


def without_tracebacks(program):
    from paddle.base.proto import framework_pb2

    description = framework_pb2.ProgramDesc.FromString(program)
    for block in description.blocks:
        for op in block.ops:
            kept = [attribute for attribute in op.attrs if attribute.name != "op_callstack"]
            del op.attrs[:]
            op.attrs.extend(kept)
    return description.SerializeToString()


def main(source, target):
    put_fluid_back()
    from paddle_serving_client.io import inference_model_to_serving

    inference_model_to_serving(
        source,
        serving_server=f"{target}/serving_server",
        serving_client=f"{target}/serving_client",
        model_filename="inference.pdmodel",
        params_filename="inference.pdiparams",
        fetch_alias_names="prediction",
    )
    server = Path(target) / "serving_server"
    (server / "inference.pdiparams").unlink()
    program = server / "inference.pdmodel"
    program.write_bytes(without_tracebacks(program.read_bytes()))


if __name__ == "__main__":
    main(*sys.argv[1:])
