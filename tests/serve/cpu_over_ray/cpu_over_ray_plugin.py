"""Named by the entry point: vLLM asks for the platform's class before it can be imported."""


def platform() -> str:
    return "cpu_over_ray.CpuOverRay"
