"""The command line. Each command imports its own dependencies, so that `--help` is fast, and `run` handles signals first."""

import sys

from daemon.container_init import exit_on_signals, fork_if_first_process
from daemon.environment import drop_empty_variables
from daemon.hidden_memory import hide_memory


def main() -> int:
    drop_empty_variables()
    if sys.argv[1:2] == ["run"]:
        exit_on_signals()
        hide_memory()
        if (status := fork_if_first_process()) is not None:
            return status
    return _main()


def _main() -> int:
    import argparse
    import os
    from importlib.metadata import version

    from daemon.cli.arguments import add_tools
    from daemon.cli.models_arguments import add_models
    from daemon.cli.transcribe_arguments import add_transcribe
    from daemon.demo.arguments import add_embedded

    parser = argparse.ArgumentParser(
        prog="transcriptd", description="Turn an SQS queue of recordings into transcripts."
    )
    parser.add_argument("--version", action="version", version=f"transcriptd {version('transcriptd')}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    run = commands.add_parser("run", help="run the daemon; settings come from the environment (docs/configuration.md)")
    run.set_defaults(call=lambda _: _run())
    add_embedded(commands)
    add_transcribe(
        commands.add_parser("transcribe", help="transcribe a file on this machine; needs no cloud or account")
    )
    add_tools(commands)
    add_models(commands.add_parser("models", help="fetch, mirror and verify model weights (docs/models.md)"))
    arguments = parser.parse_args()
    if region := os.environ.get("AWS_REGION"):  # read by every AWS SDK except botocore
        os.environ.setdefault("AWS_DEFAULT_REGION", region)
    return int(arguments.call(arguments))


def _run() -> int:
    import asyncio
    import logging

    from botocore.exceptions import ConfigNotFound, ConfigParseError, NoRegionError, ProfileNotFound

    from daemon.config import load_settings
    from daemon.errors import EXIT_CONFIG, ConfigError
    from daemon.launcher import serve
    from daemon.telemetry.logs import configure

    configure("info", "poller")
    try:
        settings = load_settings()
        configure(settings.logging_level, "poller", hidden=settings.secrets)
        return asyncio.run(serve(settings))
    except ConfigError as error:
        refusal = error.message
    except NoRegionError:
        refusal = "no AWS region is set; set AWS_REGION to the region of the queues and buckets"
    except ProfileNotFound as error:
        refusal = f"AWS_PROFILE: {error}; the files are AWS_CONFIG_FILE and AWS_SHARED_CREDENTIALS_FILE"
    except (ConfigNotFound, ConfigParseError) as error:
        refusal = f"AWS_CONFIG_FILE, AWS_SHARED_CREDENTIALS_FILE: {error}"
    logging.getLogger("transcriptd").critical("settings refused", extra={"error": refusal})
    return EXIT_CONFIG


if __name__ == "__main__":
    sys.exit(main())
