"""How the double of TensorRT loads, inspects and runs engines."""

import json
from typing import Any

import onnx

from tests.export.tensorrt.behaviour import PLAN, Body
from tests.export.tensorrt.onnx_on_cpu import CpuGraph, FakeTensor


class Runtime(Body):
    def init(self, this: Any, logger: Any) -> None:
        self.library.start(this, logger)

    def deserialize_cuda_engine(self, this: Any, data: bytes) -> Any:
        data = bytes(data)
        if not data.startswith(PLAN):
            self.library.log(this.logger, "Error Code 1: Serialization (magicTag does not match)")
            return None
        length = int.from_bytes(data[4:8], "big")
        about = json.loads(data[8 : 8 + length])
        if self.library.is_portable and not self.library.has_gpu:
            self.library.log(
                this.logger, "Error Code 1: Cuda Runtime (cudaError 35: CUDA driver version is insufficient)"
            )
            return None
        if self.library.is_portable:
            fits = f"SM{self.library.compute_capability.replace('.', '')}" in about["targets"]
        else:
            fits = about["origin"] == self.library.origin()
        if not fits:
            origin = about["targets"] or about["origin"]
            self.library.log(this.logger, f"Error Code 6: API Usage Error (the engine is of {origin})")
            return None
        graph = CpuGraph(onnx.load_model_from_string(data[8 + length :]))
        return self.library.new("ICudaEngine", logger=this.logger, about=about, graph=graph)


class ICudaEngine(Body):
    def get_num_io_tensors(self, this: Any) -> int:
        return len(this._state["graph"].tensors)

    def get_num_layers(self, this: Any) -> int:
        return len(this._state["graph"].nodes)

    def get_tensor_name(self, this: Any, index: int) -> str:
        return str(this._state["graph"].tensors[index].name)

    def get_tensor_mode(self, this: Any, name: str) -> Any:
        tensor = this._state["graph"].find(name)
        mode = "NONE" if tensor is None else ("INPUT" if tensor.is_input else "OUTPUT")
        return getattr(self.library.trt.TensorIOMode, mode)

    def get_tensor_dtype(self, this: Any, name: str) -> Any:
        return getattr(self.library.trt.DataType, this._state["graph"].find(name).kind)

    def get_tensor_shape(self, this: Any, name: str) -> Any:
        return self.library.dims(this._state["graph"].find(name).shape)

    def get_engine_stat(self, this: Any, stat: Any = None) -> int:
        return int(this._state["graph"].weight_bytes)

    def get_device_memory_size_v2(self, this: Any) -> int:
        return self.library.workspace_needed

    def create_engine_inspector(self, this: Any) -> Any:
        return self.library.new("EngineInspector", engine=this)

    def create_runtime_config(self, this: Any) -> Any:
        if not self.library.is_portable:
            return self.library.new("IRuntimeConfig")
        lazy = self.library.trt.DynamicShapesKernelSpecializationStrategy.LAZY
        return self.library.new("IRuntimeConfig", dynamic_shapes_kernel_specialization_strategy=lazy)

    def create_execution_context(self, this: Any, config: Any = None) -> Any:
        if self.library.memory < self.library.workspace_needed:
            self.library.log(this._state["logger"], "Error Code 2: OutOfMemory (no memory for the execution context)")
            return None
        fixed = {item.name: item.shape for item in this._state["graph"].inputs if -1 not in item.shape}
        state = {"shapes": fixed, "addresses": {}, "settled": False, "config": config}
        return self.library.new("IExecutionContext", engine=this, **state)


class EngineInspector(Body):
    def get_engine_information(self, this: Any, form: Any) -> str:
        engine = this._state["engine"]._state
        if form != self.library.trt.LayerInformationFormat.JSON:
            raise NotImplementedError("the double's table is JSON")
        if not self.library.inspects:
            return ""
        rows = [(node.name or node.op_type, node.op_type) for node in engine["graph"].nodes]
        detailed = engine["about"]["detailed"]
        return json.dumps({"Layers": [{"Name": n, "LayerType": t} if detailed else n for n, t in rows], "Bindings": []})


class IExecutionContext(Body):
    def set_input_shape(self, this: Any, name: str, shape: Any) -> bool:
        engine = this._state["engine"]._state
        tensor = engine["graph"].find(name)
        if tensor is None or not tensor.is_input or not self._in_profile(tensor, tuple(shape), engine["about"]):
            self.library.log(engine["logger"], f"Error Code 3: API Usage Error (setInputShape: {name} {tuple(shape)})")
            return False
        this._state["shapes"][name] = tuple(shape)
        this._state["settled"] = False
        return True

    def _in_profile(self, tensor: FakeTensor, shape: tuple[int, ...], about: dict[str, Any]) -> bool:
        if not tensor.takes(shape):
            return False
        ranges = about["profile"][0].get(tensor.name) if about["profile"] else None
        return ranges is None or all(a <= b <= c for a, b, c in zip(ranges[0], shape, ranges[2], strict=True))

    def get_tensor_shape(self, this: Any, name: str) -> Any:
        graph = this._state["engine"]._state["graph"]
        if graph.find(name).is_input:
            return self.library.dims(this._state["shapes"].get(name, graph.find(name).shape))
        return self.library.dims(graph.output_shape(name, this._state["shapes"]))

    def set_tensor_address(self, this: Any, name: str, memory: int) -> bool:
        if this._state["engine"]._state["graph"].find(name) is None or not memory:
            return False
        this._state["addresses"][name] = int(memory)
        return True

    def execute_async_v3(self, this: Any, stream_handle: int) -> bool:
        engine = this._state["engine"]._state
        problem = self._run_problem(this._state, engine["graph"], int(stream_handle))
        if problem:
            self.library.log(engine["logger"], f"Error Code 3: API Usage Error (enqueueV3: {problem})")
            return False
        self.library.kernels_run.append(self._kernels(this._state, engine["graph"]))
        stream = self.library.streams[int(stream_handle)]
        this._state["settled"] = True
        shapes, addresses = dict(this._state["shapes"]), dict(this._state["addresses"])
        stream.launch(lambda: engine["graph"].run_in_memory(shapes, addresses))
        return True

    def is_stream_capturable(self, this: Any, stream: int) -> bool:
        return "REQUIRE_USER_ALLOCATION" in this._state["engine"]._state["about"]["flags"]

    def _kernels(self, context: dict[str, Any], graph: CpuGraph) -> str:
        """Return the kind of kernels that run: those for any shape, until those for this one were compiled."""
        is_dynamic = any(-1 in tensor.shape for tensor in graph.inputs)
        if not (self.library.is_portable and is_dynamic):
            return "fixed"
        strategy = context["config"].dynamic_shapes_kernel_specialization_strategy if context["config"] else None
        return "specialised" if strategy is not None and strategy.name == "EAGER" else "fallback"

    def _run_problem(self, context: dict[str, Any], graph: CpuGraph, handle: int) -> str | None:
        if handle not in self.library.streams:
            return f"no stream {handle:#x}"
        for tensor in graph.tensors:
            if tensor.name not in context["addresses"]:
                return f"no address was set for {tensor.name}"
            if tensor.is_input and tensor.name not in context["shapes"]:
                return f"no shape was set for {tensor.name}"
        if self.library.streams[handle].is_recording and not context["settled"]:
            return "a first run while the stream is captured"
        return None
