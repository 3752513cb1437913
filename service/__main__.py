"""The command line: ``python -m service serve | predict | check``."""

import argparse
import asyncio
import json
import os
import sys
from pathlib import Path

from service import __version__
from service.config import Config, load_config
from service.errors import ServiceError, StartupError

MODEL_VARIABLE = "REGNETX__OP__LOCAL_SERVICE_CONF__MODEL_CONFIG"


def main() -> int:
    """Run one command; 0 when it did what was asked, 1 when images failed, 2 when it could not start."""
    arguments = _parser().parse_args()
    try:
        return int(arguments.run(arguments))
    except StartupError as error:
        print(f"regnetx: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m service", description=__import__("service").__doc__)
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(required=True, metavar="command")
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--config", type=Path, default=Path("config.yml"), help="default: config.yml")
    common.add_argument("--model", help="serving model to use instead of the configuration's model_config")
    serve = commands.add_parser("serve", parents=[common], help="answer requests over HTTP and gRPC")
    serve.set_defaults(run=_serve)
    predict = commands.add_parser("predict", parents=[common], help="classify image files without a server")
    predict.add_argument("images", nargs="+", type=Path, metavar="IMAGE")
    predict.add_argument("--top-k", type=int, default=5, help="classes an image, best first; default: 5")
    predict.add_argument("--json", action="store_true", help="one JSON object a line")
    predict.set_defaults(run=_predict)
    check = commands.add_parser("check", parents=[common], help="check configuration and model, print what is in force")
    check.set_defaults(run=_check)
    return parser


def _configuration(arguments: argparse.Namespace) -> Config:
    environment = dict(os.environ)
    if arguments.model:
        environment[MODEL_VARIABLE] = arguments.model
    return load_config(arguments.config, environment)


def _serve(arguments: argparse.Namespace) -> int:
    from service.native.child import set_up_logging
    from service.native.ready import announce
    from service.native.supervisor import Supervisor
    from service.ops.model import load_model

    config = _configuration(arguments)
    model = load_model(Path(config.regnet.local_service_conf.model_config_))
    set_up_logging()
    asyncio.run(Supervisor(config, lambda http, rpc: announce(config, model, http, rpc)).run())
    return 0


def _predict(arguments: argparse.Namespace) -> int:
    from service.predict import LocalClassifier

    config = _configuration(arguments)
    classifier = LocalClassifier(config)
    failed = 0
    for path in arguments.images:
        try:
            predictions = classifier.classify(path, top_k=arguments.top_k)
        except (ServiceError, OSError) as error:
            failed += 1
            print(f"{path}: {error.strerror if isinstance(error, OSError) else error}", file=sys.stderr)
            continue
        if arguments.json:
            print(json.dumps({"image": str(path), "top_k": [vars(prediction) for prediction in predictions]}))
        else:
            best = "  ".join(f"{prediction.label} {prediction.prob:.4f}" for prediction in predictions)
            print(f"{path}  {best}")
    return 1 if failed else 0


def _check(arguments: argparse.Namespace) -> int:
    from service.ops.model import load_model, verify_files

    config = _configuration(arguments)
    model = load_model(Path(config.regnet.local_service_conf.model_config_))
    verify_files(model)
    print(config.model_dump_json(by_alias=True, indent=2))
    print(
        f"model {model.name}: {model.architecture}, {model.classes} classes, {model.height}x{model.width}",
        file=sys.stderr,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
