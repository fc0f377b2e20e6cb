"""Charts of several tags together, on TensorBoard's page of custom scalars."""

import lightning as L

from codd_lightning.callbacks.at_epoch_end import board_of

# By category and title: regular expressions of the tags that share a chart, those of `codd_lightning.evaluation.tag`.
LAYOUT = {
    "accuracy of every decoder at every step budget": {
        "strict accuracy": ["Multiline", ["strict_accuracy/.*"]],
        "flexible accuracy": ["Multiline", ["flexible_accuracy/.*"]],
    },
    "likelihood of held-out tokens by mask ratio of the block, nats per token": {
        "CLL gain": ["Multiline", ["validation/cll_gain/.*"]],
        "misspecification gap": ["Multiline", ["misspecification_gap/.*"]],
    },
}


class Charts(L.Callback):
    """Tells TensorBoard, once, which tags to draw in one chart; it draws those that the run has."""

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        board = board_of(trainer)
        if board is not None:
            board.add_custom_scalars(LAYOUT)
