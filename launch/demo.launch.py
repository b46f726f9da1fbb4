"""Replays a synthetic street into perception_node and shows the results in RViz."""

from launch.actions import DeclareLaunchArgument, IncludeLaunchDescription
from launch.substitutions import LaunchConfiguration, PathJoinSubstitution
from launch_ros.substitutions import FindPackageShare

from launch import LaunchDescription


def generate_launch_description():
    """Argument: rviz."""
    share = FindPackageShare("multimodal_perception")

    def include(name, **arguments):
        path = PathJoinSubstitution([share, "launch", name])
        return IncludeLaunchDescription(path, launch_arguments=arguments.items())

    return LaunchDescription(
        [
            DeclareLaunchArgument("rviz", default_value="true", description="also start RViz"),
            include("perception.launch.py", rig="synthetic", rviz=LaunchConfiguration("rviz")),
            include("replay.launch.py", path="synthetic"),
        ]
    )
