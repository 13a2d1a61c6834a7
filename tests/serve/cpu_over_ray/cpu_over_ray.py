"""A platform for vLLM: the CPU, which Ray is told to be a GPU.

vLLM's executor for several nodes does not take CPUs. All that it lacks is the name of what Ray hands out for each
worker. The folder is put on the path of the workers; vLLM finds it by the entry point beside it.
"""

from __future__ import annotations

from vllm.platforms.cpu import CpuPlatform


class CpuOverRay(CpuPlatform):
    ray_device_key = "GPU"

    @classmethod
    def device_control_id_to_physical_device_id(cls, name: str) -> int:
        return int(name)
