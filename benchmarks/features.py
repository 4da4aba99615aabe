"A frozen body and a new head: from files to final accuracy, and once more when the features are known."
import time

from fastai.callback.schedule import Learner

from hw4.learn.features import feature_learner

from . import fastai_side, hw4_side
from .alone import alone
from .load import Load, said_weights
from .results import Result

ARCH, LR = 'alexnet', 1e-3
TARGETS = dict(none='>= 15', whole_face='>= 6')


def ours(
    load: Load,
    strategy: str,
    *,
    views: int,  # of each image
) -> tuple[float, Learner]:  # seconds to the final accuracy, and the learner with the trained net
    "hw4's feature extractor"
    start = time.perf_counter()
    learn = hw4_side.face_learner(load, ARCH, size=load.size(224, 224), augment=strategy, regime='feature_extract')
    fast = feature_learner(learn, views=views)
    with fast.no_bar(), fast.no_logging():
        fast.fit_one_cycle(load.epochs, LR)
        fast.validate()
    return time.perf_counter() - start, learn


def plain(load: Load, strategy: str, workers: int) -> tuple[float, float]:  # seconds to the final accuracy, and that accuracy on hw4's validation images
    "fastai's feature extractor: the body frozen, and run for every image in every epoch"
    start = time.perf_counter()
    learn = frozen(load, strategy, workers=workers)
    with learn.no_bar(), learn.no_logging(): learn.fit_one_cycle(load.epochs, LR)
    took = time.perf_counter() - start
    return took, hw4_side.accuracy_of(learn.model, hw4_side.face_learner(load, ARCH, size=load.size(224, 224)).dls.valid)


def frozen(load: Load, strategy: str, *, workers: int) -> Learner:
    "fastai's learner with all but the head frozen"
    dls = fastai_side.face_loaders(load.portraits, size=load.size(224, 224), bs=load.bs(hw4_side.BS), workers=workers, augment=strategy != 'none')
    learn = fastai_side.face_learner(dls, hw4_side.net(ARCH, load.weights(ARCH)))
    learn.freeze()
    return learn


def features(
    strategy: str,  # 'none' or 'whole_face'
    views: int,  # of each image, for hw4
    load: Load,
) -> list[Result]:  # from cold caches, and again
    "The feature extractor, hw4 before and after fastai"
    load.fresh_cache()
    load.weights(ARCH)  # made or found before the clock runs
    cold = [ours(load, strategy, views=views)[0]]
    workers, tried = fastai_side.fastest(lambda o: fastai_side.training_turn(frozen(load, strategy, workers=o), load.short, lr=LR))
    usual, theirs = alone(plain, load, strategy, workers)
    load.fresh_cache()
    took, learn = ours(load, strategy, views=views)
    again = [ours(load, strategy, views=views)[0] for _ in range(load.pairs)]
    quality = f'accuracy: hw4 {hw4_side.accuracy_of(learn.model, learn.dls.valid):.3f}, fastai {theirs:.3f}'
    what = f'AlexNet {load.size(224, 224)}, {load.epochs} epochs, strategy {strategy}' + f', {views} views' * (views > 1)
    varied = '; augmented by whole_face in fixed views on the one side, by aug_transforms() anew each epoch on the other' * (strategy != 'none')
    note = f'{tried}{varied}; the frozen dropout of AlexNet is off in hw4 and on in fastai; {said_weights(load.weights(ARCH))}'
    common = dict(above='fastai', below='hw4', quality=quality, note=note)
    return [Result(f'features_{strategy}', f'{what}, from cold caches to final accuracy', TARGETS[strategy],
                   {'hw4': [*cold, took], 'fastai': [usual]}, **common),
            Result(f'features_again_{strategy}', f'{what}, features cached, head trained anew', '>= 100',
                   {'hw4': again, 'fastai': [usual]}, **common)]
