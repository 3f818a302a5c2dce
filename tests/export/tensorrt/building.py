"""How the double of TensorRT builds: network, parser, config, timing cache."""

import hashlib
import json
from typing import Any

import onnx

from tests.export.tensorrt.behaviour import CACHE, PLAN, Body
from tests.export.tensorrt.onnx_on_cpu import CpuGraph

_PRECISION_FLAGS = ("FP16", "BF16", "INT8", "FP8", "INT4", "FP4")


class Builder(Body):
    def init(self, this: Any, logger: Any) -> None:
        self.library.start(this, logger)

    def create_network(self, this: Any, flags: int = 0) -> Any:
        known = self.library.trt.NetworkDefinitionCreationFlag
        unknown = int(flags) & ~sum(1 << value for value in {int(item) for item in known.__members__.values()})
        if unknown:
            self.library.log(this.logger, f"createNetworkV2: unknown flags {unknown:#x}")
            return None
        strong = bool(int(flags) & 1 << int(known.STRONGLY_TYPED)) or self.library.major >= 11
        return self.library.new("INetworkDefinition", logger=this.logger, strong=strong, graph=None, failed=False)

    def create_builder_config(self, this: Any) -> Any:
        return self.library.new(
            "IBuilderConfig",
            owner=this,
            flag_set={self.library.trt.BuilderFlag.TF32},
            pools={},
            cache=None,
            profiles=[],
            builder_optimization_level=3,
            profiling_verbosity=self.library.trt.ProfilingVerbosity.LAYER_NAMES_ONLY,
            progress_monitor=None,
            num_compute_capabilities=1,
            targets={},
        )

    def create_optimization_profile(self, this: Any) -> Any:
        return self.library.new("IOptimizationProfile", shapes={})

    def build_serialized_network(self, this: Any, network: Any, config: Any, kernels: object = None) -> Any:
        problem = self._problem(network._state, config._state) or self._time_kernels(network._state, config._state)
        if problem:
            self.library.log(this.logger, problem)
            return None
        self._report(config._state["progress_monitor"], network._state["graph"])
        about = {
            "origin": self.library.origin(),
            "targets": [config._state["targets"].get(i) for i in range(config.num_compute_capabilities)]
            if self.library.is_portable
            else [],
            "strong": network._state["strong"],
            "flags": sorted(flag.name for flag in config._state["flag_set"]),
            "level": config.builder_optimization_level,
            "detailed": config.profiling_verbosity == self.library.trt.ProfilingVerbosity.DETAILED,
            "profile": [profile._state["shapes"] for profile in config._state["profiles"]][:1],
        }
        head = json.dumps(about).encode()
        data = PLAN + len(head).to_bytes(4, "big") + head + network._state["graph"].SerializeToString()
        return self.library.new("IHostMemory", data=data)

    def _report(self, monitor: Any, graph: onnx.ModelProto) -> None:
        if monitor is not None:
            monitor.phase_start("Building engine", None, len(graph.graph.node))
            for index in range(len(graph.graph.node)):
                assert monitor.step_complete("Building engine", index)
            monitor.phase_finish("Building engine")

    def _problem(self, network: dict[str, Any], config: dict[str, Any]) -> str | None:
        """Why TensorRT would not build this."""
        if network["graph"] is None or network["failed"]:
            return "Error Code 4: API Usage Error (Network must have at least one output)"
        lowered = [flag.name for flag in config["flag_set"] if flag.name in _PRECISION_FLAGS]
        if network["strong"] and lowered:
            return f"Error Code 3: API Usage Error (a strongly typed network with {', '.join(lowered)})"
        if not 0 <= config["builder_optimization_level"] <= 5:
            return "Error Code 3: API Usage Error (optimization level)"
        if self._limit(config) < self.library.workspace_needed:
            return f"Error Code 2: OutOfMemory (Requested size was {self.library.workspace_needed} bytes.)"
        return self._profile_problem(CpuGraph(network["graph"]), config["profiles"])

    def _limit(self, config: dict[str, Any]) -> int:
        limit: int = min(
            self.library.memory, config["pools"].get(self.library.trt.MemoryPoolType.WORKSPACE, self.library.memory)
        )
        return limit

    def _profile_problem(self, graph: CpuGraph, profiles: list[Any]) -> str | None:
        for tensor in graph.inputs:
            shapes = profiles[0]._state["shapes"].get(tensor.name) if profiles else None
            if shapes is None and -1 in tensor.shape:
                return "Error Code 4: Internal Error (Network has dynamic inputs, but no optimization profile)"
            if shapes and not all(tensor.takes(shape) for shape in shapes):
                return f"Error Code 4: Internal Error (the profile does not fit {tensor.name} {tensor.shape})"
        return None

    def _time_kernels(self, network: dict[str, Any], config: dict[str, Any]) -> str | None:
        """Time what the cache does not know, one kernel a node."""
        cache = config["cache"]
        known = cache._state["kernels"] if cache else {}
        for node in network["graph"].graph.node:
            key = hashlib.sha256(node.SerializeToString()).hexdigest()[:16]
            if key in known:
                continue
            if self.library.trt.BuilderFlag.ERROR_ON_TIMING_CACHE_MISS in config["flag_set"]:
                return f"Error Code 2: Internal Error (timing cache miss for {node.op_type} {node.name!r})"
            self.library.timed_kernels.append(node.name)
            known[key] = len(known)
        return None


class INetworkDefinition(Body):
    def get_num_layers(self, this: Any) -> int:
        return len(this._state["graph"].graph.node)

    def get_layer(self, this: Any, index: int) -> Any:
        return self.library.new("ILayer", name=this._state["graph"].graph.node[index].name)


class IProgressMonitor(Body):
    def init(self, this: Any) -> None:
        pass


class OnnxParser(Body):
    def init(self, this: Any, network: Any, logger: Any) -> None:
        this._state.update(network=network, logger=logger, errors=[])

    def parse(self, this: Any, model: bytes, path: str | None = None) -> bool:
        network = this._state["network"]._state
        if network["graph"] is not None:
            return self._parser_error(this, "INVALID_GRAPH", "the network must be empty")
        try:
            graph = onnx.load_model_from_string(bytes(model))
            onnx.checker.check_model(graph)
        except Exception as error:
            return self._parser_error(this, "MODEL_DESERIALIZE_FAILED", str(error))
        for index, node in enumerate(graph.graph.node):
            if node.op_type in self.library.unknown_operators or node.domain not in ("", "ai.onnx"):
                what = f"In node {index} ({node.op_type}): UNSUPPORTED_NODE: Assertion failed: Plugin not found"
                self._parser_error(this, "UNSUPPORTED_NODE", what, node=node, index=index)
        network["failed"] = bool(this._state["errors"])
        network["graph"] = graph
        return not network["failed"]

    def get_num_errors(self, this: Any) -> int:
        return len(this._state["errors"])

    def get_error(self, this: Any, index: int) -> Any:
        return this._state["errors"][index]

    def _parser_error(self, this: Any, code: str, text: str, *, node: Any = None, index: int = -1) -> bool:
        state = {"code": getattr(self.library.trt.ErrorCode, code), "desc": text, "index": index, "node": node}
        this._state["errors"].append(self.library.new("ParserError", **state))
        this._state["network"]._state["failed"] = True
        self.library.log(this._state["logger"], text)
        return False


class ParserError(Body):
    def code(self, this: Any) -> Any:
        return this._state["code"]

    def desc(self, this: Any) -> str:
        return str(this._state["desc"])

    def node(self, this: Any) -> int:
        return int(this._state["index"])

    def node_name(self, this: Any) -> str:
        return str(this._state["node"].name)

    def node_operator(self, this: Any) -> str:
        return str(this._state["node"].op_type)

    def func(self, this: Any) -> str:
        return "parseNode"


class IOptimizationProfile(Body):
    def set_shape(self, this: Any, name: str, first: Any, typical: Any, last: Any) -> None:
        this._state["shapes"][name] = [tuple(shape) for shape in (first, typical, last)]


class IBuilderConfig(Body):
    def set_flag(self, this: Any, flag: Any) -> None:
        this._state["flag_set"].add(flag)

    def clear_flag(self, this: Any, flag: Any) -> None:
        this._state["flag_set"].discard(flag)

    def get_flag(self, this: Any, flag: Any) -> bool:
        return flag in this._state["flag_set"]

    def set_compute_capability(self, this: Any, compute_capability: Any, index: int) -> bool:
        this._state["targets"][index] = compute_capability.name
        return bool(0 <= index < this.num_compute_capabilities)

    def set_memory_pool_limit(self, this: Any, pool: Any, size: int) -> None:
        this._state["pools"][pool] = int(size)

    def add_optimization_profile(self, this: Any, profile: Any) -> int:
        for shapes in profile._state["shapes"].values():  # looked at only here, as the library for RTX does
            lengths = {len(shape) for shape in shapes}
            if len(lengths) > 1 or not all(a <= b <= c for a, b, c in zip(*shapes, strict=True)):
                return -1
        this._state["profiles"].append(profile)
        return len(this._state["profiles"]) - 1

    def create_timing_cache(self, this: Any, data: bytes) -> Any:
        data = bytes(data)
        if not data:
            return self.library.new("ITimingCache", origin=self.library.origin(), kernels={})
        if not data.startswith(CACHE):
            self.library.log(this._state["owner"].logger, "the timing cache is not valid")
            return None
        return self.library.new("ITimingCache", **json.loads(data[len(CACHE) :]))

    def set_timing_cache(self, this: Any, cache: Any, ignore_mismatch: bool) -> bool:
        if cache._state["origin"] != self.library.origin() and not ignore_mismatch:
            self.library.log(this._state["owner"].logger, f"the timing cache is of {cache._state['origin']}")
            return False
        this._state["cache"] = cache
        return True

    def get_timing_cache(self, this: Any) -> Any:
        return this._state["cache"]


class ITimingCache(Body):
    def combine(self, this: Any, input_cache: Any, ignore_mismatch: bool) -> bool:
        if input_cache._state["origin"] != this._state["origin"] and not ignore_mismatch:
            return False
        this._state["kernels"] = {**input_cache._state["kernels"], **this._state["kernels"]}
        return True

    def serialize(self, this: Any) -> Any:
        return self.library.new("IHostMemory", data=CACHE + json.dumps(this._state, sort_keys=True).encode())
