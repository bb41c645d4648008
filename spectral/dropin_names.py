"""The constants that scripts write as ``ww.NAME``, under the names and with the values of ``weightwatcher`` 0.7.7.

Imports nothing, so that ``import spectral as ww`` stays free; :mod:`spectral` hands them out on demand.
"""

from __future__ import annotations

from enum import IntFlag, auto

WW_NAME = "weightwatcher"
ERROR = -1
UNKNOWN = "unknown"
SUCCESS, FAILED = "success", "failed"
OVER_TRAINED, UNDER_TRAINED = "over-trained", "under-trained"
OVER_TRAINED_THRESH, UNDER_TRAINED_THRESH = 2.0, 6.0

# Options, by their keywords.
LAYERS, START_IDS = "layers", "layer_ids_start"
MIN_EVALS, MAX_EVALS, MAX_N = "min_evals", "max_evals", "max_N"
POOL, WW2X, CHANNELS_STR, FIRST, LAST = "pool", "ww2x", "channels", "first", "last"
CONV2D_NORM, CONV2D_FFT, FFT, GLOROT_FIX, GLOROT_FIT = "conv2d_norm", "conv2d_fft", "fft", "glorot_fix", "glorot_fit"
NORMALIZE, RESCALE, STACKED, INTRA, SPARSIFY, INVERSE = (
    "normalize",
    "rescale",
    "stacked",
    "intra",
    "sparsify",
    "inverse",
)
RANDOMIZE, MP_FIT, DETX, VECTORS, DELTA_ES, PEFT = "randomize", "mp_fit", "detX", "vectors", "deltaEs", "peft"
PLOT, SAVEFIG, SAVEDIR, SMOOTH, ADD_BIASES, TOLERANCE = (
    "plot",
    "savefig",
    "savedir",
    "smooth",
    "add_biases",
    "tolerance",
)
FIT, PL_PACKAGE, XMAX, FIX_FINGERS, FINGER_THRESH = "fit", "pl_package", "xmax", "fix_fingers", "finger_thresh"
SVD_METHOD = "svd_method"
MAX_FINGERS = "MAX_FINGERS"

# Values of options.
PL, TPL, E_TPL = "PL", "TPL", "E_TPL"
POWER_LAW, POWERLAW, TRUNCATED_POWER_LAW = "power_law", "powerlaw", "truncated_power_law"
LOG_NORMAL, EXPONENTIAL = "lognormal", "exponential"
XMIN_PEAK, XMIN_MAX, CLIP_XMAX = "xmin_peak", "xmin_max", "clip_xmax"
XMAX_FORCE = FORCE = "force"
POWERLAW_PACKAGE = "powerlaw"
WW_POWERLAW_PACKAGE = WW_POWERLAW = DEFAULT_POWERLAW_PACKAGE = "ww"
FAST_SVD = FAST = "fast"
ACCURATE_SVD = ACCURATE = "accurate"
TRUNCATED_SVD = TRUNCATED = "truncated"
VALID_SVD_METHODS = [FAST_SVD, ACCURATE_SVD]
SVD, RMT, LAMBDA_MIN, AUTO = "svd", "rmt", "alpha_min", "auto"
EUCLIDEAN, CKA, RAW = "euclidean", "cka", "raw"
PEFT_WITH_BASE = "with_base"

# Defaults.
DEF_SAVE_DIR = "ww-img"
DEFAULT_MIN_EVALS = MIN_NUM_EVALS = 8
DEFAULT_MAX_EVALS = MAX_NUM_EVALS = 15000
DEFAULT_MAX_N = 50000
DEFAULT_MAX_FINGERS = 10
DEFAULT_FINGER_THRESH = 1.0
DEFAULT_XMAX = None
DEFAULT_POOL, DEFAULT_WW2X, DEFAULT_PEFT = True, False, False
DEFAULT_START_ID = 0
WEAK_RANK_LOSS_TOLERANCE = 0.000001
EVALS_THRESH, EPSILON = 1e-5, 1e-10
EVALS_HALF_THRESH, HALF_EPSILON = 1e-4, 6e-05
WW_CONFIG_FILENAME = "ww_config.json"

# Layer types and frameworks.
NORM, DENSE, CONV1D, CONV2D, BIDIRECTIONAL = "norm", "dense", "conv1d", "conv2d", "bidirectional"
KERAS, KERAS_H5_FILE, PYTORCH, TENSORFLOW = "keras", "keras_h5_file", "pytorch", "tensorflow"
SOURCE = "source"
PYSTATEDICT, ONNX, WW_FLATFILES, SAFETENSORS = "pystatedict", "onnx", "ww_flatfiles", "safetensors"


class LAYER_TYPE:  # noqa: N801  the names are those of the scripts
    """Types of layers, as in the column ``layer_type`` and in the option ``layers``."""

    UNKNOWN = UNKNOWN
    STACKED = "stacked"
    DENSE = DENSE
    CONV1D = CONV1D
    CONV2D = CONV2D
    FLATTENED = "flattened"
    EMBEDDING = "embedding"
    BIDIRECTIONAL = BIDIRECTIONAL
    NORM = NORM


LAYER_TYPES_SUPPORTED = [
    LAYER_TYPE.CONV2D,
    LAYER_TYPE.CONV1D,
    LAYER_TYPE.DENSE,
    LAYER_TYPE.EMBEDDING,
    LAYER_TYPE.NORM,
]


class FRAMEWORK:
    """Kinds of models."""

    UNKNOWN = UNKNOWN
    PYTORCH = PYTORCH
    KERAS = KERAS
    ONNX = ONNX
    PYSTATEDICT = PYSTATEDICT
    PYSTATEDICT_DIR = "pystatedict_dir"
    WW_FLATFILES = WW_FLATFILES
    KERAS_H5_FILE = KERAS_H5_FILE


class CHANNELS:
    """Where the channels of a 4-D kernel are."""

    UNKNOWN = UNKNOWN
    FIRST = FIRST
    LAST = LAST


class METHODS(IntFlag):
    """What can be asked of a model."""

    DESCRIBE = auto()
    ANALYZE = auto()


class MODEL_FILE_FORMATS:  # noqa: N801  the names are those of the scripts
    """Formats of checkpoints."""

    PYTORCH = PYTORCH
    SAFETENSORS = SAFETENSORS
    WW_FLATFILES = WW_FLATFILES
    KERAS_H5_FILE = KERAS_H5_FILE


class METRICS:
    """Columns of the details."""

    NORM = "norm"
    LOG_NORM = "log_norm"
    ALPHA = "alpha"
    ALPHA_WEIGHTED = "alpha_weighted"
    LOG_ALPHA_NORM = "log_alpha_norm"
    SPECTRAL_NORM = "spectral_norm"
    LOG_SPECTRAL_NORM = "log_spectral_norm"
    STABLE_RANK = "stable_rank"
    MP_SOFTRANK = "mp_softrank"
    MATRIX_RANK = "matrix_rank"
    MATRIX_ENTROPY = "entropy"
