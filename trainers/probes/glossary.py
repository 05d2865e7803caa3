"""The glossary's text: two lines a metric, read by `trainers.probes.names`.

    NAME | PROBE | UNIT | RANGE | higher, lower or neither is better
        what it is, in one line

`curves` and `training` stand for what is seen while a student trains, by no probe. N test images,
D dimensions.
"""

TABLE = """
rank/effective | spectrum | dimensions | 1 to min(N - 1, D) | neither
    exp of the entropy of the shares of variance (the paper's effective rank)
rank/roy_vetterli | spectrum | dimensions | 1 to min(N - 1, D) | neither
    the same of the shares of singular values (Roy and Vetterli)
rank/participation | spectrum | dimensions | 1 to min(N - 1, D) | neither
    participation ratio, tr(C)^2 / tr(C^2)
rank/rankme | spectrum | dimensions | 1 to min(N, D) | neither
    RankMe: of the singular values of the embeddings as they are, not centred
rank/paper/effective | spectrum | dimensions | 1 to min(N - 1, D) | neither
    rank/effective as the paper's code has it, with 1e-10 inside the logarithm
rank/alpha | spectrum | exponent | real | neither
    decay of the spectrum: minus the slope of ln variance on ln k, k = 4 to 100
rank/alpha/r2 | spectrum | share | 0 to 1 | neither
    how well that line fits; low: rank/alpha says little
rank/n | spectrum | images | 2 upwards | neither
    N of all ranks here; ranks of different N are not comparable
rank/within_class/MEASURE | spectrum | dimensions | 1 to D | neither
    mean over classes of the rank inside a class
rank/penultimate/MEASURE | spectrum | dimensions | 1 to F | neither
    rank of the F features that the last linear layer takes
dims/P | spectrum | dimensions | 0 to D | neither
    fewest principal components that hold P % of the variance
variance | spectrum | variance | 0 to 1 | neither
    total variance of the unit embeddings; small: a narrow cone
variance/within_class | spectrum | share | 0 to 1 | neither
    share of the variance that lies inside classes
spectrum | spectrum | shares | 0 to 1 | neither
    array: shares of variance of the principal components, largest first
spectrum/cumulative | spectrum | shares | 0 to 1 | neither
    array: their running sum
cosine_to_teacher | spectrum | cosine | -1 to 1 | higher
    mean cosine of an image's embedding to the teacher's of the same image
cka/debiased | spectrum | similarity | about 0 to 1 | higher
    linear CKA to the teacher, debiased: rotation and scale do not count
subspace | spectrum | shares | 0 to 1 | neither
    array: share of the variance inside the teacher's first k principal components, all k
subspace/K | spectrum | share | 0 to 1 | neither
    that share for k = K
linear/PROTOCOL/accuracy | linear | share | 0 to 1 | higher
    logistic regression on clean train embeddings, right on clean test images
linear/PROTOCOL/gradient_norm | linear | objective per sample | 0 upwards | lower
    largest entry of the gradient where it stopped: how near it is to the optimum
linear/PROTOCOL/n | linear | images | 2 upwards | neither
    train images it was fitted on; C multiplies the sum of so many losses
linear/standard/C | linear | inverse penalty | 1e-6 to 10 | neither
    what was chosen on a held-out tenth of train
knn/accuracy | neighbours | share | 0 to 1 | higher
    20 nearest train images, weighted by exp(cosine / 0.07)
knn/centred/accuracy | neighbours | share | 0 to 1 | higher
    the same with the mean of train taken off
zero_shot/accuracy | zero_shot | share | 0 to 1 | higher
    nearest of the teacher's text embeddings of the classes
zero_shot/centred/accuracy | zero_shot | share | 0 to 1 | higher
    the same with the means of images and of texts taken off
zero_shot/agreement | zero_shot | share | 0 to 1 | higher
    how often student and teacher name the same class so
ARM/accuracy | robustness | share | 0 to 1 | higher
    the classifier of linear/paper, right on corrupted test images; mean over draws
ARM/accuracy_sd | robustness | share | 0 to 1 | lower
    standard deviation of that over draws (ddof = 1)
ARM/cosine | robustness | cosine | -1 to 1 | higher
    mean cosine of an image's corrupted embedding to its clean one
ARM/rank | robustness | dimensions | 1 to min(N - 1, D) | neither
    effective rank of the corrupted embeddings
noise/SPACE/half | robustness | strength | 0 upwards | higher
    noise at which half of the clean accuracy above chance is gone
ANY/refitted/accuracy | robustness | share | 0 to 1 | higher
    the same with a classifier fitted on train images so corrupted
ANY/recalibrated/accuracy | robustness | share | 0 to 1 | higher
    the same with BatchNorm's statistics taken from train images so corrupted
ANY/recalibrated_refitted/accuracy | robustness | share | 0 to 1 | higher
    the same with both: what is still low is lost, not moved
KIND/arms | robustness | arms | 1 upwards | neither
    how many corruptions and severities the means are over
KIND/mean/accuracy | robustness | share | 0 to 1 | higher
    mean of ARM/accuracy over them
KIND/unseen/accuracy | robustness | share | 0 to 1 | higher
    mean over those that the student was not trained on
KIND/seen/accuracy | robustness | share | 0 to 1 | higher
    mean over those that it was trained on
BAND/accuracy | frequency | share | 0 to 1 | higher
    the classifier of linear/paper under noise of one band, or with frequencies taken away
BAND/accuracy_sd | frequency | share | 0 to 1 | lower
    standard deviation of that over draws (ddof = 1)
BAND/cosine | frequency | cosine | -1 to 1 | higher
    mean cosine of an image's embedding so changed to its clean one
BAND/rank | frequency | dimensions | 1 to min(N - 1, D) | neither
    effective rank of the embeddings so changed
fourier/S/accuracy | frequency | shares | 0 to 1 | higher
    array: accuracy under single waves of strength S, a heat map
fourier/S/cosine | frequency | cosines | -1 to 1 | higher
    array: cosine to the clean embedding under each wave
fourier/S/down | frequency | shares of Nyquist | 0 to 1 | neither
    array: each wave's vertical frequency
fourier/S/across | frequency | shares of Nyquist | -1 to 1 | neither
    array: each wave's horizontal frequency
infonce/paper | infonce | nats | 0 upwards | lower
    InfoNCE, student against teacher, batches of 64, temperature 0.1; ln 64 if nothing is told
infonce/paper/bound | infonce | nats | up to ln 64 | higher
    what it would be if nothing were told, minus infonce/paper
infonce/full | infonce | nats | 0 upwards | lower
    the same with all N test images in one batch; ln N if nothing is told
infonce/bound | infonce | nats | up to ln N | higher
    ln N minus infonce/full: at least so much of the teacher is told by the student
infonce/retrieval1 | infonce | share | 0 to 1 | higher
    how often the teacher's embedding nearest to the student's is that of the same image
infonce/paper/reverse | infonce | nats | 0 upwards | lower
    infonce/paper, teacher against student
infonce/paper/bound/reverse | infonce | nats | up to ln 64 | higher
    infonce/paper/bound, teacher against student
infonce/full/reverse | infonce | nats | 0 upwards | lower
    infonce/full, teacher against student
infonce/bound/reverse | infonce | nats | up to ln N | higher
    infonce/bound, teacher against student
infonce/retrieval1/reverse | infonce | share | 0 to 1 | higher
    infonce/retrieval1, teacher against student
alignment | infonce | squared distance | 0 to 4 | lower
    mean squared distance of an image's embedding to the teacher's of the same image
uniformity | infonce | ln | -8 to 0 | neither
    ln of the mean of exp(-2 d^2) over distinct pairs (Wang and Isola); lower is more spread out
uniformity/with_self | infonce | ln | -8 to 0 | neither
    the same with self-pairs, all N at once
uniformity/paper | infonce | ln | -8 to 0 | neither
    the same with self-pairs, in batches of 64 (the paper's)
uniformity/paper/distinct | infonce | ln | -8 to 0 | neither
    the same without self-pairs, in batches of 64
linear/PROTOCOL/accuracy/END | intervals | share | 0 to 1 | higher
    95 % interval of that accuracy over test images (bootstrap)
knn/accuracy/END | intervals | share | 0 to 1 | higher
    95 % interval of that accuracy over test images (bootstrap)
zero_shot/accuracy/END | intervals | share | 0 to 1 | higher
    95 % interval of that accuracy over test images (bootstrap)
linear/PROTOCOL/correct | intervals | 0 or 1 | 0 to 1 | neither
    array: whether each test image is right, for paired comparisons
rank/MEASURE/END | intervals | dimensions | 0 upwards | neither
    95 % interval of that rank over test images (delete-d jackknife)
rank/at/COUNT | intervals | dimensions | 1 to D | neither
    effective rank of COUNT test images, mean over disjoint subsets
rank/curve/n | intervals | images | 2 to N | neither
    array: numbers of images
rank/curve/effective | intervals | dimensions | 1 to D | neither
    array: effective rank of so many
retained/rank/MEASURE | retained | dimensions | 1 to D | neither
    rank that shrinkage alone would give: of the teacher's variances, each times its R^2
retained/rank/ratio | retained | ratio | 0 upwards | neither
    the student's effective rank over that; below 1: collapse beyond regression to the mean
retained/share | retained | share | 0 to 1 | higher
    share of the teacher's variance that is told by the student, linearly
retained/r2 | retained | R^2 | up to 1 | higher
    array: R^2 of each of the teacher's components from the student
retained/variance | retained | variance | 0 to 1 | neither
    array: variance times R^2 of each
truncated/refit/K/accuracy | truncated | share | 0 to 1 | higher
    embeddings cut to their own first K components, a classifier fitted on those
truncated/fixed/K/accuracy | truncated | share | 0 to 1 | higher
    the same with the classifier of all components
curve/rank/effective | curves | dimensions | 1 to D | neither
    while it trains, of a fixed subset: compare with the teacher's of the same images
curve/rank/participation | curves | dimensions | 1 to D | neither
    while it trains, of a fixed subset
curve/spectrum/K | curves | share | 0 to 1 | neither
    while it trains: share of the variance in the first K components of a fixed subset
curve/cosine_to_teacher | curves | cosine | -1 to 1 | higher
    while it trains, of a fixed subset
curve/alignment | curves | squared distance | 0 to 4 | lower
    while it trains, of a fixed subset: squared distance to the teacher's embeddings
curve/uniformity | curves | ln | -8 to 0 | neither
    while it trains, of a fixed subset
curve/ridge/accuracy | curves | share | 0 to 1 | higher
    least squares on one-hot labels, right on a fixed subset, while it trains
curve/epoch | curves | epochs | 0 upwards | neither
    where in training that was
train/loss | training | of the objective | real | lower
    mean over an epoch
train/epoch | training | epochs | 0 upwards | neither
    where in training that was
"""
