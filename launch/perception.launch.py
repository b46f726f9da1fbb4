"""Starts perception_node for a rig, configures and activates it, and optionally starts RViz."""

from launch.actions import DeclareLaunchArgument, OpaqueFunction
from launch.conditions import IfCondition
from launch.substitutions import EnvironmentVariable, LaunchConfiguration, PathJoinSubstitution
from launch_ros.actions import LifecycleNode, Node
from launch_ros.parameter_descriptions import ParameterValue
from launch_ros.substitutions import FindPackageShare

from launch import LaunchDescription


def generate_launch_description():
    """Arguments: rig, parameters, detector, autostart, use_sim_time, namespace, namespaced_tf,
    rviz, rviz_profile."""
    share = FindPackageShare("multimodal_perception")
    defaults = PathJoinSubstitution([share, "config", "perception.yaml"])
    profile = PathJoinSubstitution([share, "config", "rviz", "perception.rviz"])
    # Fast DDS loses large images with its default settings. A profile of the user has priority.
    dds_variable = "FASTDDS_DEFAULT_PROFILES_FILE"
    dds_profile = PathJoinSubstitution([share, "config", "dds", "fastdds_shm.xml"])
    environment = {dds_variable: EnvironmentVariable(dds_variable, default_value=dds_profile)}
    use_sim_time = ParameterValue(LaunchConfiguration("use_sim_time"), value_type=bool)
    arguments = [
        DeclareLaunchArgument("rig", description="rig file, or the name of a shipped rig"),
        DeclareLaunchArgument(
            "parameters", default_value=defaults, description="ROS parameter file"
        ),
        DeclareLaunchArgument(
            "detector",
            default_value="",
            description="parameter pipeline.detector (auto, geometric, fusion or a plug-in); "
            "empty: value of the parameter file",
        ),
        DeclareLaunchArgument(
            "autostart", default_value="true", description="configure and activate the node"
        ),
        DeclareLaunchArgument(
            "use_sim_time", default_value="false", description="use the time of the topic /clock"
        ),
        DeclareLaunchArgument(
            "namespace", default_value="", description="namespace of the node and its output topics"
        ),
        DeclareLaunchArgument(
            "namespaced_tf",
            default_value="true",
            description="with a namespace: use the topics tf and tf_static in it instead of the global "
            "/tf and /tf_static, as Nav2 does, so that robots do not share transforms",
        ),
        DeclareLaunchArgument("rviz", default_value="false", description="also start RViz"),
        DeclareLaunchArgument(
            "rviz_profile",
            default_value=profile,
            description="RViz profile, for example one that `rig check --rviz FILE` wrote",
        ),
    ]

    def tf_remappings(context):
        if LaunchConfiguration("namespaced_tf").perform(context).lower() == "false":
            return []
        return [("/tf", "tf"), ("/tf_static", "tf_static")]

    def perception(context):
        parameters = {
            "rig": ParameterValue(LaunchConfiguration("rig"), value_type=str),
            "use_sim_time": use_sim_time,
            "autostart": ParameterValue(LaunchConfiguration("autostart"), value_type=bool),
        }
        detector = LaunchConfiguration("detector").perform(context)
        if detector:
            parameters["pipeline.detector"] = detector
        node = LifecycleNode(
            package="multimodal_perception",
            executable="perception_node",
            name="perception",
            namespace=LaunchConfiguration("namespace"),
            output="screen",
            parameters=[LaunchConfiguration("parameters"), parameters],
            additional_env=environment,
            remappings=tf_remappings(context),
        )
        return [node]

    def rviz(context):
        node = Node(
            package="rviz2",
            executable="rviz2",
            namespace=LaunchConfiguration("namespace"),
            arguments=["-d", LaunchConfiguration("rviz_profile")],
            parameters=[{"use_sim_time": use_sim_time}],
            remappings=tf_remappings(context),
            condition=IfCondition(LaunchConfiguration("rviz")),
        )
        return [node]

    functions = [OpaqueFunction(function=f) for f in (perception, rviz)]
    return LaunchDescription([*arguments, *functions])
