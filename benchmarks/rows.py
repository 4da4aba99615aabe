"Every row of the benchmark by its name."
from functools import partial

from .features import features
from .metric import metric
from .pipeline import pipeline
from .scale import scale
from .scenes import fcn8s, memory, merge_three
from .training import SHORT, SIZES, floor, finetune, gpu, overhead

NETS = {SHORT.get(o, o): o for o in SIZES}
ROWS = dict(pipeline=pipeline, features_none=partial(features, 'none', 1), features_whole_face=partial(features, 'whole_face', 4),
            **{f'finetune_{k}': partial(finetune, v) for k, v in NETS.items()}, **{f'overhead_{k}': partial(overhead, v) for k, v in NETS.items()},
            fcn8s=fcn8s, metric=metric, merge=merge_three, memory=memory, floor=floor,
            **{f'gpu_{o}': partial(gpu, o) for o in ('alexnet', 'resnet18')})
EXTRA = dict(scale=scale)  # only when asked for by name


def choose(
    names: list[str],  # names of rows, or beginnings of names; none: all but the extra ones
) -> dict:  # name -> function: load -> results
    "The rows to measure"
    every = ROWS | EXTRA
    # the features are used again in the row that made them
    wanted = [o.replace('features_again', 'features') for o in names]
    strange = [o for o in wanted if not any(name.startswith(o) for name in every)]
    if strange: raise ValueError(f'no row is called {", ".join(strange)}; there are {", ".join(every)}, and beginnings such as finetune')
    return {k: v for k, v in every.items() if any(k.startswith(o) for o in wanted)} if wanted else dict(ROWS)
