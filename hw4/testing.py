"What every notebook test needs, paid once: `nbdev_test` calls `warm` before it forks its workers."
import os


def warm(
    cells=None,  # the cells about to be tested, which nbdev hands over
):
    "Import the heavy libraries before the fork, and give each worker one thread"
    os.environ.setdefault('OMP_NUM_THREADS', '1')
    import fastai.vision.all
    import matplotlib
    import torch
    torch.set_num_threads(1)
    matplotlib.use('agg')
