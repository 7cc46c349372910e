"""The explicit list: ops that keep what they touch, for none of them can lose an index and be exact."""

from __future__ import annotations

from onnxpfp.channels.facts import Deciding
from onnxpfp.channels.registry import Rules

__all__ = ["RULES"]

RULES = Rules()

RULES.stay("counts up, and each number is the place it stands at", "EyeLike", "Range")
RULES.stay("averages over samples and classes", "NegativeLogLikelihoodLoss", "SoftmaxCrossEntropyLoss")
RULES.stay("makes a grid out of single numbers", "AffineGrid")
RULES.stay("carries a state of the whole sequence, and no released onnxruntime runs it", "CausalConvWithState")
RULES.stay(
    "works on text or on encoded images",
    *("ImageDecoder", "RegexFullMatch", "StringConcat", "StringNormalizer", "StringSplit", "TfIdfVectorizer"),
)
RULES.stay(
    "takes each feature by its place",
    *(
        f"ai.onnx.ml:{op}"
        for op in (
            *("ArrayFeatureExtractor", "Binarizer", "CastMap", "CategoryMapper", "DictVectorizer"),
            *("FeatureVectorizer", "Imputer", "LabelEncoder", "LinearClassifier", "LinearRegressor", "Normalizer"),
            *("OneHotEncoder", "SVMClassifier", "SVMRegressor", "Scaler", "TreeEnsemble"),
            *("TreeEnsembleClassifier", "TreeEnsembleRegressor", "ZipMap"),
        )
    ),
)

RULES.declare("Range", decides=Deciding(picks=True))
RULES.declare(
    *("ai.onnx.ml:Binarizer", "ai.onnx.ml:Imputer", "ai.onnx.ml:LabelEncoder", "ai.onnx.ml:LinearClassifier"),
    *("ai.onnx.ml:OneHotEncoder", "ai.onnx.ml:SVMClassifier", "ai.onnx.ml:SVMRegressor", "ai.onnx.ml:TreeEnsemble"),
    *("ai.onnx.ml:TreeEnsembleClassifier", "ai.onnx.ml:TreeEnsembleRegressor"),
    decides=Deciding(),
)
