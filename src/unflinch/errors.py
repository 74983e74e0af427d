"""Everything that unflinch raises on purpose.

```
UnflinchError                 any failure with a message meant for the user
├── InputError                the user's mistake: says what was given, expected, and what to do (exit code 2)
│   ├── PromptFileError       a prompt file that cannot be read, naming file and line
│   ├── PromptSetError        prompts that can be read but not used (empty, one category, a guard prompt among targets)
│   ├── ConfigError           unknown or impossible option
│   ├── NotEnoughMemoryError  a run that cannot fit into the memory
│   ├── ModelError            a model that cannot be loaded or used
│   │   └── ArchitectureError a model whose modules were not recognised
│   ├── PatchError            a patch that does not belong to the model, or is damaged
│   └── RunFolderError        a run folder that belongs to other settings, or cannot be written
├── EndpointError             an endpoint that was asked did not answer, or not usably (exit code 1)
├── JudgeError                a judge that was asked did not give a judgement (exit code 1)
├── SignatureError            a folder that is not what was signed (exit code 1)
├── WorkerError               one of several processes that work together is gone (exit code 1)
└── VerdictError              the run worked, its patch did not pass; nothing is handed on (exit code 1)
```
"""

from __future__ import annotations


class UnflinchError(Exception):
    """Any failure with a message meant for the user; `exit_code` is what the command returns."""

    exit_code = 1


class InputError(UnflinchError):
    """The user's mistake, in one sentence: what was given, what was expected, what to do."""

    exit_code = 2


class PromptFileError(InputError):
    """A prompt file that cannot be read; names the file and the line."""


class PromptSetError(InputError):
    """Prompts that can be read but cannot be used for a run."""


class ConfigError(InputError):
    """An unknown option, or a value outside its range."""


class NotEnoughMemoryError(InputError):
    """A run that needs more memory than there is."""


class ModelError(InputError):
    """A model that cannot be loaded, or has no chat template."""


class ArchitectureError(ModelError):
    """A model whose decoder layers and projections were not recognised."""


class NotFiniteError(ModelError):
    """A changed model that computes something else than numbers in its dtype."""

    def __init__(self, dtype: object) -> None:
        """Take the dtype in which it computes."""
        super().__init__(
            f"the changed model computes something else than numbers ({dtype} overflows); "
            "give dtype float32, or a smaller fit.kl_budget"
        )


class PatchError(InputError):
    """A patch that is damaged or was made for another base model."""


class RunFolderError(InputError):
    """A run folder that was made with other settings, or cannot be written."""


class EndpointError(UnflinchError):
    """A language model behind an endpoint could not be asked, or did not answer usably."""


class JudgeError(UnflinchError):
    """A judge, such as a language model behind an endpoint, failed or did not answer with a judgement."""


class SignatureError(UnflinchError):
    """A folder whose files are not those that were signed, or not signed with that key."""


class WorkerError(UnflinchError):
    """One of the processes that work together on a run has stopped, so that the others cannot go on."""


class VerdictError(UnflinchError):
    """The run finished, but its patch did not pass: it is not written, or not handed on."""
