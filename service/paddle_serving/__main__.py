"""The command line: ``python -m service.paddle_serving [--config config.yml] [--model serving_models/NAME]``."""

from __future__ import annotations

if __name__ == "__main__":  # first: stock opens log files when it is imported
    from service.startup import open_missing_streams

    open_missing_streams()

import argparse
import os
import sys
from pathlib import Path

from service.config import MODEL_VARIABLE, Config, load_config
from service.errors import StartupError
from service.ops.model import Model, load_verified
from service.paddle_serving.pipeline_config import refuse_closed_doors

LOGS = "PipelineServingLogs"  # stock's own name for the folder of its logs, in the working directory


def main() -> int:
    """Serve until SIGTERM or SIGINT; 2 when configuration, model or environment are not right."""
    arguments = _parser().parse_args()
    environment = {**os.environ, **({MODEL_VARIABLE: arguments.model} if arguments.model else {})}
    try:
        config = load_config(arguments.config, environment)
        refuse_closed_doors(config.native, environment)
        _serve(config, load_verified(Path(config.regnet.local_service_conf.model_config_)))
    except StartupError as error:
        print(f"regnetx: {error}", file=sys.stderr)
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m service.paddle_serving", description=__doc__)
    parser.add_argument("--config", type=Path, default=Path("config.yml"), help="default: config.yml")
    parser.add_argument("--model", help="serving model to use instead of the configuration's model_config")
    return parser


def _serve(config: Config, model: Model) -> None:
    # NOTE importing stock opens its log files; ProcessInfo.json else lands in the working directory
    os.environ.setdefault("SERVING_HOME", os.path.join(os.environ.get("SERVING_LOG_PATH", ""), LOGS))
    os.environ.setdefault("GLOG_minloglevel", "2")  # Paddle tells every pass over the model
    from service.paddle_serving.children import end_at_once, tie_children
    from service.paddle_serving.probe import refusal
    from service.paddle_serving.web_service import RegnetService

    def announce(rpc_port: int, http_port: int | None) -> None:
        if err_msg := refusal(config.service_name, rpc_port, http_port):
            print(f"regnetx: the stock runtime cannot answer: {err_msg}", file=sys.stderr, flush=True)
            return
        doors = [f"POST http://127.0.0.1:{http_port}/{config.service_name}/prediction"] if http_port else []
        doors.append(f"gRPC 127.0.0.1:{rpc_port}")
        size = f"{model.architecture}, {model.classes} classes, stock runtime, on all interfaces"
        print(f"ready: {model.name} ({size}) at {' and '.join(doors)}", flush=True)

    tie_children()
    end_at_once()
    try:
        RegnetService(config, model, announce).run()
    except SystemExit as error:  # how stock says that a port is in use
        raise StartupError(str(error)) from None


if __name__ == "__main__":
    sys.exit(main())
