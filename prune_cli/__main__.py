"""`python -m prune_cli` is `prune-run`, for launchers that start modules, such as torchrun."""

from prune_cli.commands import run

if __name__ == "__main__":
    run()
