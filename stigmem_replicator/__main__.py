"""``python -m stigmem_replicator`` is the command ``stigmem-replicate``."""

from stigmem_replicator.cli.app import main

if __name__ == "__main__":
    main()
