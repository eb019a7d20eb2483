"""The runtimes that read the network from a file, as sessions of benchmarks/engine.py; neither imports torch."""

from __future__ import annotations

import numpy as np

from contenders import Job, Session


def onnxruntime_session(job: Job) -> Session:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = job.threads
    options.inter_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    session = onnxruntime.InferenceSession(str(job.onnx), options, providers=["CPUExecutionProvider"])
    images = np.load(job.images)
    return Session(lambda: session.run(None, {"images": images})[0])


def openvino_session(job: Job) -> Session:
    import openvino

    settings = {
        "INFERENCE_NUM_THREADS": job.threads,
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "f32",
    }
    core = openvino.Core()
    request = core.compile_model(core.read_model(job.onnx), "CPU", settings).create_infer_request()
    images = np.load(job.images)
    return Session(lambda: request.infer([images], share_inputs=True, share_outputs=True)[0])


SESSIONS = {"onnxruntime": onnxruntime_session, "openvino": openvino_session}
