"""ament_python package: `colcon build` installs the robot side; `training` stays out of it."""

from pathlib import Path

from setuptools import find_packages, setup

NAME = "depth_ros"


def share(folder: str) -> list[tuple[str, list[str]]]:
    """Return setuptools' data_files that install every file below `folder` under share/depth_ros."""
    files = [path for path in sorted(Path(folder).rglob("*")) if path.is_file()]
    return [(f"share/{NAME}/{path.parent}", [str(path)]) for path in files]


setup(
    name=NAME,
    version="0.1.0",
    packages=find_packages(include=[NAME, f"{NAME}.*"]),
    package_data={f"{NAME}.engines": ["frames/*.jpg"]},
    data_files=[
        ("share/ament_index/resource_index/packages", [f"resource/{NAME}"]),
        (f"share/{NAME}", ["package.xml"]),
        (f"share/{NAME}/launch", sorted(str(path) for path in Path("launch").glob("*.launch.py"))),
        *share("models"),
        (f"share/{NAME}/config", sorted(str(path) for path in Path("config").glob("*.*"))),
    ],
    install_requires=["setuptools"],
    extras_require={"test": ["pytest"], "ray": ["ray==2.60.0"]},
    zip_safe=False,
    maintainer="depth_ros maintainers",
    maintainer_email="maintainers@users.noreply.h-seed-426b6294.example",
    description="Metric depth with its uncertainty, and a point cloud, from one camera.",
    license="Apache-2.0",
    entry_points={
        "console_scripts": [
            "mono_depth_node = depth_ros.ros.node:main",
            "camera_player = depth_ros.ros.player:main",
            "build_engine = depth_ros.tools.build_engine:main",
            "check_engine = depth_ros.tools.check_engine:main",
            "check_bundle = depth_ros.tools.check_bundle:main",
            "bench = depth_ros.tools.bench:main",
            "process = depth_ros.tools.process:main",
        ]
    },
)
