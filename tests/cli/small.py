"""The smoke experiment made as small as its path through the code allows."""

SMALL = [
    "data.train_size=48",
    "data.validation_size=16",
    "data.test_size=16",
    "trainer.max_epochs=1",
    "trainer.progress_bar=false",
    "trainer.num_threads=1",
    "callbacks.few_step_reasoning.examples=2",
    "evaluation.examples=4",
    "evaluation.likelihood_examples=8",
    "evaluation.steps_per_block=[4]",
]
