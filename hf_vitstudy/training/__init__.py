"""What the training loop of ``recipes/finetune.py`` is made of, one file per question.

settings       what a recipe may say
order          which images make up which step; all chance of a run
data           which images there are, and how they reach the device
augmentation   what happens to an image on its way
model          the network, fresh or from a checkpoint
optimisation   what decays, how fast each layer learns, when to stop
resume         what a killed run leaves and how it goes on
"""
