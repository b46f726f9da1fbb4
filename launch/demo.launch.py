"""A synthetic street played into perception_node, with RViz."""

from launch.actions import DeclareLaunchArgument, IncludeLaunchDescription
from launch.substitutions import LaunchConfiguration, PathJoinSubstitution
from launch_ros.substitutions import FindPackageShare

from launch import LaunchDescription


def generate_launch_description():
    """Argument: rviz."""
    share = FindPackageShare("multimodal_perception")

    def included(name, **arguments):
        path = PathJoinSubstitution([share, "launch", name])
        return IncludeLaunchDescription(path, launch_arguments=arguments.items())

    return LaunchDescription(
        [
            DeclareLaunchArgument("rviz", default_value="true", description="start RViz as well"),
            included("perception.launch.py", rig="synthetic", rviz=LaunchConfiguration("rviz")),
            included("replay.launch.py", path="synthetic"),
        ]
    )
