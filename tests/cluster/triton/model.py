"""A model of Triton's Python backend: the sum of each row."""

from typing import Any

import triton_python_backend_utils as triton


class TritonPythonModel:
    """The class that the backend looks for."""

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answer each request."""
        rows = [triton.get_input_tensor_by_name(each, "rows").as_numpy() for each in requests]
        return [triton.InferenceResponse([triton.Tensor("sums", each.sum(axis=1))]) for each in rows]
