"""Other settings for a run that was loaded, as the command line gives them."""

from ml_collections import ConfigDict

from experiments.run.loading import Loaded


def with_settings(loaded: Loaded, config: ConfigDict, sections: tuple[str, ...]) -> Loaded:
    """Return a loaded run whose `sections` are those of `config`; the rest stays as it was."""
    merged = ConfigDict(loaded.config).unlock()
    for section in sections:
        merged[section] = config[section]
    return loaded._replace(config=merged, run=loaded.run._replace(config=merged))
