"""Publishes a dataset or bag in a loop at a constant rate on the topics of live sensors."""

from launch.actions import DeclareLaunchArgument
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue

from launch import LaunchDescription


def generate_launch_description():
    """Arguments: path, rate, namespace."""
    return LaunchDescription(
        [
            DeclareLaunchArgument(
                "path",
                default_value="synthetic",
                description="dataset folder, bag, shards, `synthetic` or simulated:SCENARIO,seed=N",
            ),
            DeclareLaunchArgument(
                "rate", default_value="10.0", description="frames per second [Hz]"
            ),
            DeclareLaunchArgument(
                "namespace", default_value="", description="namespace of perception_node"
            ),
            Node(
                package="multimodal_perception",
                executable="replay_node",
                name="replay",
                namespace=LaunchConfiguration("namespace"),
                output="screen",
                parameters=[
                    {
                        "path": ParameterValue(LaunchConfiguration("path"), value_type=str),
                        "rate": ParameterValue(LaunchConfiguration("rate"), value_type=float),
                    }
                ],
            ),
        ]
    )
